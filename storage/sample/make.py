"""Draw the shipped sample from photosift: python -m storage.sample.make PHOTOSIFT_DIR [OUT_DIR].

Rows are drawn, and ordered, by a keyed hash of their position, so every shard is a uniform draw over all pictures.
The neighbours are recomputed within the sample: squared distances in float64, exact for uint8, ties to the lower id.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashing.mapreduce import Array
from hashing.statistics import keyed_hash

from ..formats import vecs

SEED = 20
SIZES = {"base": 40_000, "learn": 5_000, "query": 500}
FIRST_ID = {"base": 0, "learn": 1 << 40, "query": 1 << 41}
SHARD_ROWS = 5_000
NEIGHBOURS = 100


def draw(path: Path, n: int) -> Array:
    """n rows (n, d) of a vecs file: those whose position hashes lowest, in the order of their hashes."""
    x = np.concatenate(list(vecs.read_vecs(path)))
    return x[np.argsort(keyed_hash(np.arange(len(x)), SEED), kind="stable")[:n]]


def neighbours(queries: Array, base: Array, k: int) -> Array:
    """(q, k) int32 positions in base, by increasing (Euclidean distance, position)."""
    b = base.astype(np.float64)
    norms = (b * b).sum(1)
    nearest = []
    for start in range(0, len(queries), 50):
        q = queries[start : start + 50].astype(np.float64)
        squared = (q * q).sum(1)[:, None] + norms - 2 * (q @ b.T)  # (50, n) whole numbers below 2^24
        nearest.append(np.argsort(squared, axis=1, kind="stable")[:, :k].astype(np.int32))
    return np.concatenate(nearest)


def _write(path: Path, ids: Array, name: str, rows: Array) -> None:
    """One Parquet file of the columns id and name, rows (n, d) being the values of the second."""
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
    x = {split: draw(photosift / f"{split}.bvecs.gz", n) for split, n in SIZES.items()}
    for split, rows in x.items():
        ids = FIRST_ID[split] + np.arange(len(rows))
        for shard, start in enumerate(range(0, len(rows), SHARD_ROWS)):
            part = slice(start, start + SHARD_ROWS)
            _write(out / split / f"{shard:05d}.parquet", ids[part], "vector", rows[part])
    ids = FIRST_ID["query"] + np.arange(SIZES["query"])
    _write(out / "groundtruth.parquet", ids, "neighbours", neighbours(x["query"], x["base"], NEIGHBOURS))


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent)
