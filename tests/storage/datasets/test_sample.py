"""The shipped sample: schema, size, neighbours, and that the script in the repository reproduces it."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import make_sample
from storage import datasets
from storage.datasets.locate import SAMPLE

HERE = Path(os.environ.get("HASHKILN_DATA", "/nonexistent"))
SAMPLED = datasets.get("sample")
FILES = datasets.locate_or_fetch(SAMPLED, Path("/nonexistent"))


def read(split):
    blocks = list(datasets.read_split(SAMPLED, split, FILES))
    return np.concatenate([block.ids for block in blocks]), np.concatenate([block.x for block in blocks])


def test_schema():
    shards = sorted(SAMPLE.glob("*/*.parquet"))
    assert [str(shard.relative_to(SAMPLE)) for shard in shards] == [
        *(f"base/{i:05}.parquet" for i in range(8)),
        "learn/00000.parquet",
        "query/00000.parquet",
    ]
    for shard in shards:
        schema = pq.read_schema(shard)
        assert schema.names == ["id", "vector"]
        assert schema.types == [pa.int64(), pa.list_(pa.uint8(), 128)]
        assert not any(field.nullable for field in schema)
    assert {pq.read_metadata(shard).num_rows for shard in shards[:9]} == {5_000}


def test_size_and_attribution():
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.suffix != ".pyc") <= 6_000_000
    text = (SAMPLE / "ATTRIBUTION.md").read_text()
    assert all(word in text for word in ("BSD", "Apache", "CC-BY", "CC-BY-SA", "CC0", "gimp-help-en"))


@pytest.mark.parametrize(
    ("split", "n", "first"), [("base", 40_000, 0), ("learn", 5_000, 1 << 40), ("query", 500, 1 << 41)]
)
def test_rows(split, n, first):
    ids, x = read(split)
    np.testing.assert_array_equal(ids, first + np.arange(n))
    assert (x.shape, x.dtype) == ((n, 128), np.uint8)
    assert len(np.unique(x, axis=0)) == n
    assert 510 < np.median(np.linalg.norm(x.astype(float), axis=1)) < 514  # OpenCV norms SIFT to 512


def test_every_shard_is_a_sample_of_all_pictures():
    x = read("base")[1].reshape(8, 5_000, 128).astype(float)
    means, deviation = x.mean(1), x.reshape(-1, 128).std(0) / np.sqrt(5_000)
    assert (np.abs(means - means.mean(0)) < 5 * deviation).all()


def test_splits_do_not_overlap():
    rows = np.concatenate([read(split)[1] for split in ("base", "learn", "query")])
    assert len(np.unique(rows, axis=0)) == 45_500


def test_neighbours_by_brute_force():
    truth, base, queries = datasets.read_groundtruth(SAMPLED, FILES), read("base")[1].astype(np.int32), read("query")[1]
    assert truth.shape == (500, 100)
    np.testing.assert_array_equal(pq.read_table(SAMPLE / "groundtruth.parquet")["id"].to_numpy(), read("query")[0])
    for i in range(0, 500, 25):
        squared = ((base - queries[i]) ** 2).sum(1)  # integers: no rounding, so that ties are exact
        np.testing.assert_array_equal(np.lexsort((np.arange(40_000), squared))[:100], truth[i])


def test_neighbours_ties_go_to_the_lower_id():
    base = np.array([[3], [1], [1], [0], [1]], np.uint8)
    np.testing.assert_array_equal(
        make_sample.neighbours(np.array([[1], [2]], np.uint8), base, 4), [[1, 2, 4, 3], [0, 1, 2, 4]]
    )


@pytest.mark.skipif(
    not (HERE / "photosift").is_dir(), reason=f"SKIPPED FOR WANT OF REAL DATA: no photosift in HASHKILN_DATA={HERE}"
)
def test_the_script_reproduces_the_sample(tmp_path):
    make_sample.make(HERE / "photosift", tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.parquet"))
    assert made == sorted(path.relative_to(SAMPLE) for path in SAMPLE.rglob("*.parquet"))
    for path in made:
        assert pq.read_table(tmp_path / path).equals(pq.read_table(SAMPLE / path)), path
