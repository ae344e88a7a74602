"""Keys are found by their ids: only the row groups that hold them are read, in bounded memory."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.features import keys
from storage.files import parquet


def forget():
    """Clear the caches, as in a new process."""
    keys._seen.clear()
    for cached in (keys._index, keys._group_ids):
        cached.cache_clear()
    keys._recent.clear()


@pytest.fixture(params=["", "s3"])
def place(request, tmp_path):
    """A folder that exists in no store yet."""
    return f"{request.getfixturevalue('s3')}/{tmp_path.name}/keys" if request.param else str(tmp_path / "keys")


def test_keys_of_ids_invert_the_map_of_many_parts(place, monkeypatch):
    monkeypatch.setattr(keys, "MERGED", 3)
    monkeypatch.setattr(keys, "GROUP", 7)
    rng = np.random.default_rng(0)
    for i in range(40):
        keys.assign_ids(place, pa.array([f"clé {j}" for j in rng.integers(2000, size=rng.integers(1, 60))]))
        if i % 13 == 0:
            forget()
    forget()
    known = keys.keys_of(place, np.arange(300)).to_pylist()
    assert keys.find_ids(place, known, "here").tolist() == list(range(300))
    ids = rng.integers(300, size=1000)  # in any order, and repeated
    assert keys.keys_of(place, ids).to_pylist() == [known[i] for i in ids]
    assert keys.keys_of(place, np.zeros(0, np.int64)).to_pylist() == []


def test_an_id_without_a_key_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected ids of the 0 keys in .*, found 0"):
        keys.keys_of(str(tmp_path), np.array([0]))
    keys.assign_ids(str(tmp_path), pa.array(["a", "b"]))
    for wrong in (-1, 2, 2**41):
        with pytest.raises(ValueError, match=f"expected ids of the 2 keys in .*, found {wrong}"):
            keys.keys_of(str(tmp_path), np.array([1, wrong]))


def test_keys_of_bytes_and_of_earlier_releases_are_returned(tmp_path):
    pq.write_table(pa.table({"id": [0, 1], "key": [5, -3]}), tmp_path / "00000.parquet")
    assert keys.keys_of(str(tmp_path), np.array([1, 0])).to_pylist() == ["-3", "5"]
    keys.assign_ids(str(tmp_path), pa.array([b"a\xff", b"b"], pa.binary()))
    assert keys.keys_of(str(tmp_path), np.array([0, 2, 3])).to_pylist() == [b"5", b"a\xff", b"b"]
    assert keys.names_of(str(tmp_path), [2]) == [repr(b"a\xff")]
    assert keys.names_of("", [7, -2]) == ["7", "-2"]


def test_few_footers_and_row_groups_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "GROUP", 50)
    for i in range(128):
        keys.assign_ids(str(tmp_path), pa.array([f"{i:03} {j:03}" for j in range(100)]))
    forget()
    opened = []
    open_parquet = parquet.open_parquet
    monkeypatch.setattr(parquet, "open_parquet", lambda *asked: opened.append(asked[0]) or open_parquet(*asked))
    assert keys.keys_of(str(tmp_path), np.array([7_123])).to_pylist() == ["071 023"]
    assert len(opened) <= 7 + 2  # a footer for each halving of 128 parts and of the last part, and one row group
    opened.clear()
    assert keys.keys_of(str(tmp_path), np.array([7_101, 7_149])).to_pylist() == ["071 001", "071 049"]
    assert opened == []


def test_a_deleted_map_leaves_no_keys_behind(tmp_path):
    for word in ("old", "new"):
        keys.assign_ids(str(tmp_path), pa.array([word]))
        assert keys.keys_of(str(tmp_path), np.array([0])).to_pylist() == [word]
        (tmp_path / "00000.parquet").unlink()


def test_a_million_keys_are_read_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "HELD", 2**21)
    n, step = 10**6, 10**5
    for first in range(0, n, step):
        column = [f"https://example.org/pictures/{i:012}.jpeg" for i in range(first, first + step)]
        path = tmp_path / f"{first // step:05}.parquet"
        pq.write_table(pa.table({"id": range(first, first + step), "key": column}), path, row_group_size=2**14)
    before, ids = pa.total_allocated_bytes(), np.random.default_rng(0).integers(n, size=2000)
    tracemalloc.start()
    assert keys.keys_of(str(tmp_path), ids).to_pylist() == [f"https://example.org/pictures/{i:012}.jpeg" for i in ids]
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    assert pa.total_allocated_bytes() - before < 2**22  # all keys take 45 MB
    assert keys._recent._bytes <= 2**21 + 2**12
