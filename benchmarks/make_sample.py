"""Create the shipped sample from photosift: python benchmarks/make_sample.py PHOTOSIFT_DIR [OUT_DIR].

Rows are selected and sorted by a keyed hash of their position, so every shard is a uniform sample of all pictures.
Neighbours are computed within the sample: squared distances in float64, exact for uint8; ties go to the lower id.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashing.mapreduce import Array
from hashing.statistics import keyed_hash
from storage.datasets.locate import SAMPLE
from storage.formats import vecs

SEED = 20
SIZES = {"base": 40_000, "learn": 5_000, "query": 500}
FIRST_ID = {"base": 0, "learn": 1 << 40, "query": 1 << 41}
SHARD_ROWS = 5_000
NEIGHBOURS = 100


def sample_rows(path: Path, n: int) -> Array:
    """Return the n rows (n, d) of a vecs file whose positions have the lowest hashes, sorted by hash."""
    x = np.concatenate(list(vecs.read_vecs(path)))
    return x[np.argsort(keyed_hash(np.arange(len(x)), SEED), kind="stable")[:n]]


def neighbours(queries: Array, base: Array, k: int) -> Array:
    """Return positions (q, k) int32 in base, sorted by (Euclidean distance, position)."""
    b = base.astype(np.float64)
    norms = (b * b).sum(1)
    nearest = []
    for start in range(0, len(queries), 50):
        q = queries[start : start + 50].astype(np.float64)
        squared = (q * q).sum(1)[:, None] + norms - 2 * (q @ b.T)  # (50, n) integers below 2^24
        nearest.append(np.argsort(squared, axis=1, kind="stable")[:, :k].astype(np.int32))
    return np.concatenate(nearest)


def _write(path: Path, ids: Array, name: str, rows: Array) -> None:
    """Write one Parquet file with the columns id and `name`, the second of vectors (n, d)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = pa.array(rows.reshape(-1))
    schema = pa.schema(
        [
            pa.field("id", pa.int64(), nullable=False),
            pa.field(name, pa.list_(values.type, rows.shape[1]), nullable=False),
        ]
    )
    column = pa.FixedSizeListArray.from_arrays(values, rows.shape[1])
    table = pa.Table.from_arrays([pa.array(ids, pa.int64()), column], schema=schema)
    pq.write_table(table, path, compression="zstd", compression_level=19, write_statistics=["id"])


def make(photosift: Path, out: Path) -> None:
    """Write base/, learn/, query/ and groundtruth.parquet under out."""
    x = {split: sample_rows(photosift / f"{split}.bvecs.gz", n) for split, n in SIZES.items()}
    for split, rows in x.items():
        ids = FIRST_ID[split] + np.arange(len(rows))
        for shard, start in enumerate(range(0, len(rows), SHARD_ROWS)):
            part = slice(start, start + SHARD_ROWS)
            _write(out / split / f"{shard:05d}.parquet", ids[part], "vector", rows[part])
    ids = FIRST_ID["query"] + np.arange(SIZES["query"])
    _write(out / "groundtruth.parquet", ids, "neighbours", neighbours(x["query"], x["base"], NEIGHBOURS))


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else SAMPLE)
