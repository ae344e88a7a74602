"""Bundles of tiny files: their contents, the effect of a changed file, and equal rows and codes."""

import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashing.bits import pack
from hashing.families import LinearHash
from storage.features import bundles
from storage.features.dataset import Dataset
from storage.features.shard import Columns, SourceChanged
from storage.files import filesystem
from storage.files.filesystem import FileVersion, join
from storage.tables import parts
from tests.conftest import blobs

D = 4
FUNCTION = LinearHash(np.random.default_rng(0).standard_normal((D, 16)), np.zeros(16))


def names(n):
    return [f"day={i // 100}/part-{i:05}.parquet" for i in range(n)]


def files(found, size=1000):
    return {name: FileVersion(f"/x/{name}", size, "v") for name in found}


def test_every_file_is_in_one_bundle_by_name():
    groups = bundles.group_files(files(names(3000)))
    assert [name for group in groups for name in group] == sorted(names(3000))
    assert 3000 / 20 < len(groups) < 3000 / 15
    assert all(len(group) > bundles.REACH for group in groups)
    shuffled = names(3000)
    random.Random(0).shuffle(shuffled)
    assert bundles.group_files(files(shuffled)) == groups


def test_a_change_affects_only_its_bundle_and_the_adjacent_ones():
    before = {tuple(group) for group in bundles.group_files(files(names(3000)))}
    changed = []
    for seed in range(200):
        some = names(3000)
        some.insert(random.Random(seed).randrange(3000), f"day=7/part-{seed:05}-again.parquet")
        del some[random.Random(-1 - seed).randrange(3000)]
        after = {tuple(group) for group in bundles.group_files(files(some))}
        changed.append(len(after - before))
    assert max(changed) <= 6  # one file was added and another one removed
    assert sum(changed) < 200 * 3


def test_few_files_and_large_files_are_not_bundled():
    few = files(names(bundles.REACH))
    assert bundles.group_files(few) == [[name] for name in few]
    large = files(names(200), bundles.TINY)
    assert bundles.group_files(large) == [[name] for name in large]
    mixed = files(names(3000)) | files(["day=3/part-00300-large.parquet"], bundles.TINY)
    assert ["day=3/part-00300-large.parquet"] in bundles.group_files(mixed)


def test_a_bundle_is_no_larger_than_a_shard():
    groups = bundles.group_files(files(names(3000), bundles.TINY - 1))
    assert max(map(len, groups)) * (bundles.TINY - 1) <= bundles.BUNDLE_BYTES


@pytest.fixture
def dataset(folder):
    """120 files of 5 rows, on each filesystem; the third one is empty."""
    for i in range(120):
        batch = blobs(0 if i == 2 else 5, D, seed=i, first_id=10 * i)
        table = pa.table({"id": batch.ids, "vector": pa.FixedSizeListArray.from_arrays(batch.x.ravel(), D)})
        with filesystem.create(join(folder, "base", f"{i:03}.parquet")) as file:
            pq.write_table(table, file)
    return Dataset(name="tiny", dim=D, splits={"base": join(folder, "base")}, columns=Columns(), source="")


def test_a_bundle_is_read_and_encoded_as_one_shard_and_its_changes_are_noticed(dataset, folder):
    shards = dataset.shards("base")
    assert len(shards) < 12
    assert sum(shard.rows for shard in shards) == 5 * 119
    bundle = max(shards, key=lambda shard: len(shard.files))
    first = bundle.files[0].url.rsplit("/", 1)[1]
    assert bundle.name == f"{first}+"
    part = parts.encode_shard(bundle, FUNCTION, join(folder, "data"))
    assert (part.shard, part.version, part.rows) == (bundle.name, bundle.version, bundle.rows)
    rows = [batch for file in bundle.files for batch in _rows(file.url)]
    (read,) = parts.CodeShard(part, 16)
    assert read.ids.tolist() == [row["id"] for row in rows]
    x = np.array([row["vector"] for row in rows], np.float32)
    np.testing.assert_array_equal(read.x, pack(FUNCTION.encode(x)))
    filesystem.remove(bundle.files[5].url)
    with pytest.raises(SourceChanged, match=f"{bundle.files[5].url} was removed after it was listed"):
        parts.encode_shard(bundle, FUNCTION, join(folder, "data"))
    after = {shard.name: shard.version for shard in dataset.shards("base")}
    changed = {shard.name for shard in shards if after.get(shard.name) != shard.version}
    assert changed == {bundle.name}


def _rows(url):
    fs, path = filesystem.arrow(url)
    return pq.read_table(path, filesystem=fs, partitioning=None).to_pylist()
