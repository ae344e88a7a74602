"""Searches of a table in memory: filters, vectors, new versions."""

import numpy as np
import pytest

from storage.tables import resident
from tests.conftest import blobs
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import TABLE, D, part_of, reindex, write
from workflows import reader
from workflows.tables import deletion

settings, source = published_table.settings, published_table.source  # fixtures
ROWS = {seed: blobs(200, D, seed=seed, first_id=1000 * seed) for seed in range(4)}
IDS = np.concatenate([batch.ids for batch in ROWS.values()])
X, LABELS = (np.concatenate([getattr(batch, name) for batch in ROWS.values()]) for name in "xy")
QUERIES = X[::37] + np.float32(0.1)


def nearest(table, rows, k):
    """The k nearest of some rows by hand: distances, ids."""
    distances = (table.function.encode(QUERIES)[:, None] != table.function.encode(X[rows])[None]).sum(axis=2)
    order = np.lexsort((np.broadcast_to(IDS[rows], distances.shape), distances))[:, :k]
    return np.take_along_axis(distances, order, 1), IDS[rows][order]


@pytest.mark.parametrize("k", [1, 7, 500])
def test_filters_find_as_many_rows_as_there_are(settings, source, k):
    table = reader.open(TABLE)
    labels = LABELS.argmax(axis=1)
    few = np.zeros(800, bool)
    few[[3, 500, 799]] = True
    for where, rows in [
        (2, labels == 2),
        (np.int64(2), labels == 2),
        ([2, 5], np.isin(labels, [2, 5])),
        ({0, 1}, labels < 2),
        ([], np.zeros(800, bool)),
        (few, few),
        (~few, ~few),
        (table.ids >= 2000, IDS >= 2000),
    ]:
        expected = nearest(table, np.flatnonzero(rows), k)
        found = table.search(QUERIES, k, where=where)
        np.testing.assert_array_equal(found[0], expected[0])
        np.testing.assert_array_equal(found[1], expected[1])
        near = table.within(QUERIES, 4, where)
        every = nearest(table, np.flatnonzero(rows), 800)
        np.testing.assert_array_equal(near[1], every[1][every[0] <= 4])
    exact = np.square(QUERIES[:, None].astype(float) - X[None, labels == 2]).sum(axis=2)
    ids = table.search(QUERIES, 3, rerank=500, where=2)[1]
    np.testing.assert_array_equal(ids, IDS[labels == 2][exact.argsort(axis=1)[:, :3]])
    assert table.search(QUERIES, 3, asymmetric=True, where=few)[1].shape == (len(QUERIES), 3)


def test_filters_that_are_none_are_refused(settings, source):
    table = reader.open(TABLE)
    with pytest.raises(ValueError, match=r"where: expected bool \(800,\), one for each of `ids`, found \(799,\)"):
        table.search(QUERIES, where=np.ones(799, bool))
    with pytest.raises(ValueError, match=r"where: expected labels of mine__code \(0, 1, 2, 3, 4, …\), found 'cat'"):
        table.search(QUERIES, where="cat")
    with pytest.raises(ValueError, match="where: expected rows in memory: open mine__code with resident=True"):
        reader.open(TABLE, resident=False).search(QUERIES, where=2)


def test_vectors_are_read_once_and_stay(settings, source, monkeypatch):
    table = reader.open(TABLE)
    expected = reader.open(TABLE, resident=False).search(QUERIES, 5, rerank=100)
    for _ in range(2):
        for found, there in zip(table.search(QUERIES, 5, rerank=100), expected, strict=True):
            np.testing.assert_array_equal(found, there)
        for path in source.iterdir():
            path.unlink()
    monkeypatch.setattr(resident.os, "posix_fallocate", full_disk)
    with pytest.raises(
        OSError, match=r"cannot map 0.0 GB of vectors in .*: No space left; set TMPDIR to another folder"
    ):
        reader.open(TABLE).search(QUERIES, 5, rerank=100)


def full_disk(*_):
    raise OSError(28, "No space left")


def test_vectors_of_a_new_version_are_copied_or_read(settings, source, monkeypatch):
    before = reader.open(TABLE)
    before.search(QUERIES, 5, rerank=100)
    changed = blobs(150, D, seed=7, first_id=1000)
    write(source, "1.parquet", changed)
    deletion.delete("mine", np.array([5, 3001]))
    reindex(settings)
    after = reader.open(TABLE)
    unchanged = part_of(settings, "2.parquet")
    read = []
    iterate = resident.FeatureShard.__iter__
    monkeypatch.setattr(resident.FeatureShard, "__iter__", lambda shard: read.append(shard.name) or iterate(shard))
    vectors, is_encoded = after.resident.map_vectors(after.dataset, before.resident)
    assert unchanged in [shard.part for shard in before.shards]
    assert sorted(read) == ["0.parquet", "1.parquet", "3.parquet"]
    assert is_encoded.all()
    ids = np.concatenate([IDS[IDS < 1000], changed.ids, IDS[IDS >= 2000]])
    x = np.concatenate([X[IDS < 1000], changed.x, X[IDS >= 2000]])
    kept = ~np.isin(ids, [5, 3001])
    np.testing.assert_array_equal(after.ids, ids[kept])
    np.testing.assert_array_equal(vectors, x[kept])
