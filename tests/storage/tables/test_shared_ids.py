"""Shared ids are found however many ids a task holds, and only parts that can share ids are read."""

import hashlib
from itertools import combinations

import numpy as np
import pytest

from storage.files import filesystem
from storage.tables import shared_ids
from storage.tables.parts import Part, _parquet_bytes, _table


def test_only_new_parts_and_parts_with_overlapping_ranges_are_compared(monkeypatch):
    ranges = [(0, 9), (10, 19), (15, 30), (29, 29), (40, 50), (31, 39), (0, -1)]
    parts = [Part(str(i), str(i), "", int(high >= low), 1, low, high) for i, (low, high) in enumerate(ranges)]

    def compared(new):
        found = shared_ids.comparisons(parts, {parts[i] for i in new})
        return [tuple("".join(part.shard for part in side) for side in one) for one in found]

    assert compared(range(7)) == [("123", "")]
    assert compared([0, 4]) == []
    assert compared([1]) == [("1", "2")]
    assert compared([3, 1]) == [("13", ""), ("13", "2")]
    monkeypatch.setattr(shared_ids, "HELD", 1)
    monkeypatch.setattr(shared_ids, "STREAMED", 1)
    assert compared(range(7)) == [("1", "2"), ("2", "3")]
    assert list(shared_ids.comparisons([], set())) == []


def write_ids(folder, shard, ids):
    """A part whose codes are all zero."""
    data = _parquet_bytes(_table(ids, np.zeros((len(ids), 2), np.uint8), None, 16))
    url = filesystem.join(folder, f"{hashlib.sha256(data).hexdigest()}.parquet")
    filesystem.write_bytes(url, data)
    return Part(url, shard, "", len(ids), len(data), int(ids.min()), int(ids.max()))


def expected_pairs(columns, new):
    """Sorted (id, shard, shard) of every pair of parts that share an id, if one of them is new."""
    return sorted(
        (one, a, b)
        for a, b in combinations(sorted(columns), 2)
        if {a, b} & new
        for one in np.intersect1d(columns[a], columns[b]).tolist()
    )


@pytest.mark.parametrize("held", [1, 60, 10**6])
@pytest.mark.parametrize("span", [60, 3000, 10**18])
def test_shared_ids_match_a_direct_search_however_many_ids_a_task_holds(held, span, tmp_path, monkeypatch, in_process):
    monkeypatch.setattr(shared_ids, "HELD", held)
    monkeypatch.setattr(shared_ids, "STREAMED", 2 * held)
    rng = np.random.default_rng(span % 7)
    for _ in range(4):
        columns = {}
        for i in range(9):
            low = int(rng.integers(-span, span))
            drawn = rng.integers(low, low + span, int(rng.integers(1, 40)))
            again = rng.choice(columns.get(f"p{i - 1}", drawn), int(rng.integers(3)))  # shared even if ids are sparse
            columns[f"p{i}"] = rng.permutation(np.unique([*drawn, *again]))
        parts = [write_ids(str(tmp_path), shard, ids) for shard, ids in columns.items()]
        new = {part for part in parts if rng.random() < 0.5}
        expected = expected_pairs(columns, {part.shard for part in new})
        examples = ", ".join(f"{one} in {a} and {b}" for one, a, b in expected[:3]) + ", …" * (len(expected) > 3)
        line = f"expected unique ids, found {len(expected)} in two shards: {examples}"
        assert shared_ids.check_shared_ids(parts, new, in_process) == ([line] if expected else [])
        todo = list(shared_ids.comparisons(parts, new))
        assert all(len(one.held) == 1 or sum(part.rows for part in one.held) <= held for one in todo)
        assert all(len(one.others) <= 1 or sum(part.rows for part in one.others) <= 2 * held for one in todo)


def test_shared_ids_are_found_on_a_cluster_and_damaged_parts_can_be_skipped(tmp_path, ray_executor):
    parts = [write_ids(str(tmp_path), shard, np.arange(i, 20, 3)) for i, shard in enumerate("abc")]
    assert shared_ids.check_shared_ids(parts, parts, ray_executor) == []
    parts.append(write_ids(str(tmp_path), "d", np.array([4, 30])))
    line = "expected unique ids, found 1 in two shards: 4 in b and d"
    assert shared_ids.check_shared_ids(parts, parts[3:], ray_executor) == [line]
    filesystem.remove(parts[0].url)
    with pytest.raises(FileNotFoundError):
        shared_ids.check_shared_ids(parts, parts, ray_executor)
    assert shared_ids.check_shared_ids(parts, parts, ray_executor, skip_damaged=True) == [line]
