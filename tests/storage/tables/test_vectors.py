"""Vectors are read by pages where the files allow it, else whole shards, and are always those of the source."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashing.families import LinearHash
from storage.features import deletions
from storage.features.dataset import Dataset
from storage.features.shard import Columns
from storage.files import filesystem
from storage.tables import vectors
from storage.tables.parts import CodeShard, encode_shard
from storage.tables.vectors import VectorCache
from tests.conftest import empty_folder

D, N = 8, 500
FORMS = {
    "snappy": {},
    "plain": {"compression": "none", "use_dictionary": False},
    "v2": {"data_page_version": "2.0", "compression": "zstd"},
    "index": {"write_page_index": True},
    "bytes": {},
}


def write(url, ids, x, form="snappy"):
    values = pa.array([row.tobytes() for row in x]) if form == "bytes" else pa.array(list(x), pa.list_(pa.float32()))
    with filesystem.create(url) as file:
        pq.write_table(
            pa.table({"id": ids, "vector": values}),
            file,
            row_group_size=200,
            data_page_size=320,
            write_batch_size=5,
            **FORMS[form],
        )


class World:
    """Files of rows in any order of their ids, and their parts."""

    def __init__(self, folder, form, files=4):
        rng = np.random.default_rng(0)
        self.form, self.root = form, f"{folder}/base"
        self.ids, self.x = rng.permutation(4 * N), rng.standard_normal((4 * N, D)).astype(np.float32)
        for i, rows in enumerate(np.split(np.arange(4 * N), files)):
            write(f"{self.root}/{i}.parquet", self.ids[rows], self.x[rows], form)
        columns = Columns(dtype="float32" if form == "bytes" else None)
        self.dataset = Dataset(name="mine", dim=D, splits={"base": self.root}, columns=columns, source="test")
        function = LinearHash(rng.standard_normal((D, 16)), np.zeros(16))
        self.shards = [CodeShard(encode_shard(s, function, folder), 16) for s in self.dataset.shards("base")]


# Every form in a local folder; in a store, those that are read in different ways there.
PLACES = [*(("local", form) for form in FORMS), *(("s3", form) for form in ("snappy", "index", "bytes"))]
PLACES += [("gcs", "index"), ("azure", "index")]


@pytest.fixture(params=PLACES, ids="-".join)
def world(request):
    store, form = request.param
    return World(empty_folder(request, store), form)


def asked(n, seed=0, most=4 * N):
    return np.random.default_rng(seed).integers(0, most, n)


def test_any_rows_are_those_of_the_source(world):
    cache = VectorCache(world.shards, world.dataset)
    for seed in range(5):
        rows = asked(6, seed)
        assert cache.read(rows).all()
        np.testing.assert_array_equal(cache.x[rows], world.x[rows])
    is_remote = filesystem.is_remote(world.root)
    few = sum(part.known.sum() for part in cache._parts) < 1000
    assert few == (world.form == "index" or not (is_remote or world.form == "bytes"))
    assert cache.complete == (not few)
    with ThreadPoolExecutor(4) as pool:
        assert all(found.all() for found in pool.map(lambda seed: cache.read(asked(100, seed)), range(20)))
    cache.read_all()
    assert cache.complete
    np.testing.assert_array_equal(cache.x, world.x)
    assert cache.read(np.zeros(0, np.int64)).shape == (0,)


def test_a_bundle_of_files_is_read_by_pages(tmp_path):
    world = World(str(tmp_path), "plain", files=10)
    assert len(world.shards) == 1
    cache = VectorCache(world.shards, world.dataset)
    order = np.argsort(world.ids)
    rows = asked(7)
    ids = np.concatenate([batch.ids for batch in world.shards[0]])[rows]
    assert cache.read(rows).all()
    np.testing.assert_array_equal(cache.x[rows], world.x[order][ids])
    assert cache._parts[0].known.sum() < 500


@pytest.mark.parametrize("form", ["snappy", "bytes"])
def test_deleted_rows_are_left_out(form, tmp_path):
    world = World(str(tmp_path), form)
    gone = np.sort(world.ids[[3, 4, 700, 1999]])
    url = deletions.add_deletion(
        str(tmp_path / "deleted"), gone, {"base": ["0.parquet", "1.parquet", "3.parquet"]}, "me"
    )
    dataset = world.dataset.model_copy(update={"deleted": (url,)})
    function = LinearHash(np.eye(D, 16), np.zeros(16))
    shards = [CodeShard(encode_shard(shard, function, str(tmp_path)), 16) for shard in dataset.shards("base")]
    cache = VectorCache(shards, dataset)
    left = ~np.isin(world.ids, gone)
    for seed in range(3):
        rows = asked(5, seed, left.sum())
        assert cache.read(rows).all()
        np.testing.assert_array_equal(cache.x[rows], world.x[left][rows])


def test_rows_that_were_read_stay_and_others_are_lost_when_the_source_changes(world):
    cache = VectorCache(world.shards, world.dataset)
    assert cache.read(np.array([1, N + 1])).all()
    known = np.concatenate([part.known for part in cache._parts])
    write(f"{world.root}/0.parquet", world.ids[:N], -world.x[:N], world.form)
    filesystem.remove(f"{world.root}/2.parquet")
    rows = np.arange(4 * N)
    found = cache.read(rows)
    np.testing.assert_array_equal(found, known | ((rows >= N) & (rows < 2 * N)) | (rows >= 3 * N))
    np.testing.assert_array_equal(cache.x[found], world.x[found])
    again = VectorCache(world.shards, world.dataset)
    np.testing.assert_array_equal(again.read(rows), (rows // N) % 2 == 1)


def test_a_new_cache_takes_over_what_is_known(world, monkeypatch):
    old = VectorCache(world.shards, world.dataset)
    old.read(asked(20))
    known = np.concatenate([part.known for part in old._parts])
    new = VectorCache([world.shards[3], world.shards[0]], world.dataset, old)
    del old
    monkeypatch.setattr(vectors._PartVectors, "_read", lambda *_: None)
    rows = np.concatenate([np.arange(3 * N, 4 * N), np.arange(N)])
    found = new.read(np.arange(2 * N))
    np.testing.assert_array_equal(found, known[rows])
    np.testing.assert_array_equal(new.x[found], world.x[rows][found])


def test_no_rows_have_no_vectors(tmp_path):
    world = World(str(tmp_path), "snappy")
    assert VectorCache([], world.dataset).read(np.zeros(0, np.int64)).shape == (0,)
