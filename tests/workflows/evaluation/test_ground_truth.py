"""Cached neighbours equal those computed from scratch, and only changed shards are read."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashing.mapreduce import Batch, Data
from infra.executors import InProcess
from workflows.evaluation import ground_truth

K = 5


class Shard:
    """A shard with a name and a version that counts how often it is read."""

    def __init__(self, name, version, batch, read):
        self.name, self.version, self.batch, self.read = name, version, batch, read

    def __iter__(self):
        self.read.append(self.name)
        yield self.batch


class World:
    """A source whose shards are added, changed and removed, with the parts of the last published version."""

    def __init__(self, folder, seed):
        self.rng, self.folder, self.read, self.rows = np.random.default_rng(seed), folder, [], {}
        self.next, self.published, self.deleted = 0, {}, np.zeros(0, np.int64)
        self.x = self.rng.integers(0, 4, (30, 3)).astype(np.float32)  # of few values: distances that are equal
        for i in range(12):
            self.add(f"s{i:02}")

    def add(self, name, n=0):
        n = n or int(self.rng.integers(1, 30))
        ids = np.arange(self.next, self.next + n)
        self.next += n
        x = self.rng.integers(0, 4, (n, 3)).astype(np.float32)
        self.rows[name] = Shard(name, str(self.next), Batch(self.rng.permutation(ids), x), self.read)

    def publish(self):
        """Parts of the present shards; only their ids are read."""
        for name, shard in self.rows.items():
            url = f"{self.folder}/{name}-{shard.version}.parquet"
            pq.write_table(pa.table({"id": shard.batch.ids}), url)
            self.published[name] = SimpleNamespace(url=url, version=shard.version)

    @property
    def shards(self):
        return [self.rows[name] for name in sorted(self.rows)]

    def nearest(self):
        """Return (cached and updated neighbours, neighbours computed from scratch, shards read for the former)."""
        self.read.clear()
        own = -1000 - np.arange(len(self.x))
        found = ground_truth.nearest(
            self.x, own, K, self.shards, self.published, self.deleted, InProcess(), f"{self.folder}/kept.npz"
        )
        read = set(self.read)
        return found, ground_truth.exact_neighbours(self.x, own, K, Data(self.shards, InProcess())), read


def same(found, anew):
    for a, b in zip(found, anew, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(3))
def test_cached_neighbours_equal_those_computed_from_scratch(tmp_path, seed):
    """Forty nights of random changes, with ties at the ends of the lists."""
    world = World(tmp_path, seed)
    nights = []
    for night in range(40):
        found, anew, read = world.nearest()
        same(found, anew)
        nights.append(len(read) / len(world.rows))
        world.publish()
        for _ in range(int(world.rng.integers(1, 4))):
            name = str(world.rng.choice(sorted(world.rows)))
            kind = world.rng.integers(3)
            if kind == 0 and len(world.rows) > 3:
                del world.rows[name]
            else:
                world.add(name if kind == 1 else f"t{night:02}{_}")
    assert nights[0] == 1
    assert np.median(nights) < 0.5


def test_only_changed_shards_are_read_while_enough_neighbours_are_cached(tmp_path):
    world = World(tmp_path, 0)
    world.nearest()
    world.publish()
    world.add("s03")
    world.add("s99")
    same(*world.nearest()[:2])
    assert world.nearest()[2] == set()
    world.publish()
    del world.rows["s05"]
    found, anew, read = world.nearest()
    same(found, anew)
    assert read == set()


def test_lists_whose_rows_were_all_removed_are_trusted_only_as_far_as_the_new_rows_searched(tmp_path):
    """Only as many new rows are searched for as are cached: if they fill a list, further ones may lie beyond."""
    world = World(tmp_path, 0)
    world.rows.clear()
    for shards in ({"a": 4}, {"a": 12, "b": 12}):  # fewer than are kept; then others, and more
        for name, n in shards.items():
            world.add(name, n)
        same(*world.nearest()[:2])
        world.publish()
    del world.rows["a"]
    same(*world.nearest()[:2])


def test_all_shards_are_read_if_the_removed_ids_are_unknown_or_too_many(tmp_path):
    world = World(tmp_path, 0)
    world.nearest()
    del world.rows["s05"]  # was never published: its ids are not known
    found, anew, read = world.nearest()
    same(found, anew)
    assert read == set(world.rows)
    world.publish()
    for name in list(world.rows)[2:]:
        del world.rows[name]
    found, anew, read = world.nearest()
    same(found, anew)
    assert read == set(world.rows)


def test_with_fewer_rows_than_neighbours_all_rows_are_returned(tmp_path):
    world = World(tmp_path, 0)
    for name in list(world.rows)[1:]:
        del world.rows[name]
    shard = world.shards[0]
    shard.batch = shard.batch.take(slice(0, 3))
    world.nearest()
    world.publish()
    world.add("s50")
    found, anew, read = world.nearest()
    same(found, anew)
    assert read == {"s50"}
