"""The map from key to id: ids never change, are never assigned twice, and lookups cost the same as parts are added."""

import datetime
import multiprocessing
import shutil
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.features import keys
from storage.features.shard import Columns, FeatureShard
from storage.files import filesystem


@pytest.fixture
def small(monkeypatch):
    """Make index files of few parts, sorted a few rows at a time."""
    monkeypatch.setattr(keys, "MERGED", 3)
    monkeypatch.setattr(keys, "SORTED", 16)


def forget():
    """Clear the caches, as in a new process."""
    keys._seen.clear()
    keys._index.cache_clear()


def parts_of(folder):
    """Return the keys of each part, and check that their ids are consecutive."""
    tables = [pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]
    assert [i for table in tables for i in table["id"].to_pylist()] == list(range(sum(map(len, tables))))
    return [table["key"].to_pylist() for table in tables]


def test_ids_are_positions_in_the_list_and_never_change(folder, small):
    rng = np.random.default_rng(0)
    expected = {}
    for _ in range(30):
        drawn = [f"key {i}" for i in rng.integers(600, size=rng.integers(60))]
        keys.assign_ids(folder, pa.array(drawn, pa.string()))
        for key in sorted(set(drawn) - expected.keys()):
            expected[key] = len(expected)
        some = rng.permutation(list(expected))
        assert keys.find_ids(folder, some, "here").tolist() == [expected[key] for key in some]
    names = {filesystem.relative_path(folder, file.url) for file in filesystem.listing(folder, ".u64")}
    assert {"index/00000-00002.u64", "index/00000-00008.u64", "index/00000-00026.u64"} <= names
    forget()
    assert keys.find_ids(folder, expected, "here").tolist() == list(expected.values())


def test_missing_index_files_are_created_again(tmp_path, small):
    for i in range(11):
        keys.assign_ids(str(tmp_path), pa.array([f"{i} {j}" for j in range(9)]))
    made = {path: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    for path in made:
        path.unlink()
    forget()
    assert keys.find_ids(str(tmp_path), ["10 8", "0 0", "5 3"], "here").tolist() == [98, 0, 48]
    assert {path: path.read_bytes() for path in (tmp_path / "index").iterdir()} == made


def test_a_deleted_map_starts_again_at_0(tmp_path, small):
    for word in ("old", "new"):
        for i in range(4):
            keys.assign_ids(str(tmp_path / "keys"), pa.array([f"{word} {i}"]))
        assert keys.find_ids(str(tmp_path / "keys"), [f"{word} {i}" for i in range(4)], "here").tolist() == [0, 1, 2, 3]
        shutil.rmtree(tmp_path / "keys")


def test_requests_to_the_store_do_not_grow_with_the_parts(tmp_path, monkeypatch):
    asked = []
    for name in ("exists", "read_bytes"):
        ask = getattr(filesystem, name)
        monkeypatch.setattr(filesystem, name, lambda url, ask=ask: asked.append(url) or ask(url))
    costs = []
    for i in range(100):
        asked.clear()
        keys.assign_ids(str(tmp_path), pa.array([f"key {i}"]))
        costs.append(len(asked))
    assert max(costs) <= 6  # for the last part, the next one and an index file, and reading the last part
    asked.clear()
    forget()
    assert keys.find_ids(str(tmp_path), ["key 70"], "here").tolist() == [70]
    assert len(asked) <= 2 * 7 + 100 // 16 + 100 % 16


def test_keys_with_the_same_first_hash_are_distinguished(tmp_path, small, monkeypatch):
    hashes = keys._hashes
    monkeypatch.setattr(keys, "_hashes", lambda column: hashes(column) % np.array([3, 2**64 - 1], np.uint64))
    names = [f"key {i}" for i in range(40)]
    for i in range(0, 40, 4):
        keys.assign_ids(str(tmp_path), pa.array(names[i : i + 4]))
    assert keys.find_ids(str(tmp_path), names, "here").tolist() == [
        key for part in parts_of(tmp_path) for key in map(names.index, part)
    ]
    with pytest.raises(ValueError, match="unknown key 'key 40', in here"):
        keys.find_ids(str(tmp_path), ["key 3", "key 40"], "here")


def assign_many(folder, first):
    for i in range(first, first + 200, 20):
        keys.assign_ids(folder, pa.array([f"key {j}" for j in range(i, i + 30)]))


def test_concurrent_writers_never_assign_an_id_twice(tmp_path):
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as pool:
        for done in [pool.submit(assign_many, str(tmp_path), first) for first in (0, 10, 120)]:
            done.result()
    given = [key for part in parts_of(tmp_path) for key in part]
    assert sorted(given) == sorted(f"key {i}" for i in range(330))
    assert keys.find_ids(str(tmp_path), given, "here").tolist() == list(range(330))


@pytest.mark.parametrize(
    ("part", "column", "ids"),
    [
        (["a", "b", "é"], pa.array(["é", "a"], pa.large_string()), [2, 0]),
        (["a", "b"], pa.array(["b", "a", "b"]).dictionary_encode(), [1, 0, 1]),
        ([b"a\xff", b"b"], pa.array([b"b\0", b"a\xff"], pa.binary(2)).slice(1), [0]),
        ([-3, 5, 20], pa.array([20, -3], pa.int32()), [2, 0]),
        ([datetime.datetime(2020, 1, 2)], pa.array([datetime.datetime(2020, 1, 2)], pa.timestamp("ms")), [0]),
    ],
)
def test_parts_of_earlier_releases_are_read_with_keys_of_any_type(part, column, ids, tmp_path):
    pq.write_table(pa.table({"id": np.arange(len(part)), "key": part}), tmp_path / "00000.parquet", compression="zstd")
    assert keys.column_ids(str(tmp_path), column, "here").tolist() == ids
    keys.assign_ids(str(tmp_path), column)
    assert not (tmp_path / "00001.parquet").exists()


def test_rows_of_a_shard_have_the_ids_of_their_keys(tmp_path):
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(4, np.float32)), 2)
    for name, column in {"full": ["b", "a"], "null": ["a", None], "none": []}.items():
        table = pa.table({"sku": pa.array(column, pa.string()), "vector": vectors.slice(0, len(column))})
        pq.write_table(table, tmp_path / f"{name}.parquet")

    def shard(name):
        columns = Columns(id="sku", keyed=True)
        return FeatureShard(str(tmp_path / f"{name}.parquet"), name, "v", 2, columns, keys=str(tmp_path / "keys"))

    for name in ("full", "null", "none"):
        keys.assign_ids(str(tmp_path / "keys"), shard(name).distinct_keys())
    assert [batch.ids.tolist() for batch in shard("full")] == [[1, 0]]
    assert shard("full").ids_by_file(np.array([1])) == {str(tmp_path / "full.parquet"): 1}
    assert list(shard("none")) == []
    assert shard("none").ids_by_file(np.array([1])) == {}
    with pytest.raises(ValueError, match=r"expected a key in every row, found null in row 1 of .*null\.parquet"):
        list(shard("null"))


def test_many_keys_are_found_together(tmp_path):
    names = sorted(map(str, range(600_000)))  # more row groups than are read at once
    expected = {key: i for i, key in enumerate(names)}  # new keys get ids in their order
    column = pa.array(names)
    keys.assign_ids(str(tmp_path), column)
    names.reverse()
    start = time.thread_time()
    ids = keys.find_ids(str(tmp_path), names, "here")
    middle = time.thread_time()
    keys.column_ids(str(tmp_path), column, "here")
    assert middle - start < 50 * (time.thread_time() - middle)  # one at a time: thousands
    assert ids.tolist() == [expected[key] for key in names]
    assert keys.find_ids(str(tmp_path), ["0", b"999"], "here").tolist() == [expected["0"], expected["999"]]
    assert keys.find_ids(str(tmp_path), [], "here").tolist() == []
