"""Searches of a table in memory: filters, vectors, new versions."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.features.rows import Columns
from storage.tables import vectors
from tests.conftest import blobs
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import TABLE, D, part_of, reindex, spec, write
from workflows import datasets, opening
from workflows.evaluation.flow import evaluate_version
from workflows.evaluation.registry import OVERSAMPLING
from workflows.spec import Protocol
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
def test_filters_find_all_selected_rows(settings, source, k):
    table = opening.open(TABLE)
    assert repr(table) == f"Reader({TABLE}, v1: 800 rows, {table.function.n_bits} bits)"
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


def test_invalid_filters_are_refused(settings, source):
    table = opening.open(TABLE)
    with pytest.raises(ValueError, match=r"where: expected bool \(800,\), one for each of `ids`, found \(799,\)"):
        table.search(QUERIES, where=np.ones(799, bool))
    with pytest.raises(ValueError, match=r"where: expected labels of mine__code \(0, 1, 2, 3, 4, …\), found 'cat'"):
        table.search(QUERIES, where="cat")
    with pytest.raises(ValueError, match="where: expected rows in memory: open mine__code with resident=True"):
        opening.open(TABLE, resident=False).search(QUERIES, where=2)


def test_vectors_that_were_read_stay(settings, source, monkeypatch):
    complete = opening.open(TABLE)
    expected = opening.open(TABLE, resident=False).search(QUERIES, 5, rerank=100)
    complete.read_vectors()
    monkeypatch.setattr(vectors.os, "pwrite", full_disk)
    with pytest.raises(OSError, match=r"cannot keep vectors in .*: No space left; set TMPDIR to another folder"):
        opening.open(TABLE).search(QUERIES, 5, rerank=100)
    for _ in range(2):
        for found, there in zip(complete.search(QUERIES, 5, rerank=100), expected, strict=True):
            np.testing.assert_array_equal(found, there)
        for path in source.iterdir():
            path.unlink()


def test_recall_after_reranking_costs_as_many_vectors_as_it_says(settings, tmp_path):
    """`recall_reranked_x4` of k neighbours is that of a search that reads 4 k vectors for a query, and no others."""
    k, queries = 5, X[::40] + np.float32(0.1)
    for name, x in (("base", X), ("query", queries)):
        lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), D)
        table = pa.table({"id": range(len(x)), "vector": lists})
        pq.write_table(table, tmp_path / f"{name}.parquet", data_page_size=1, write_batch_size=1)  # a vector in a page
    datasets.ingest_source("few", str(tmp_path / "base.parquet"), settings, Columns(), str(tmp_path / "query.parquet"))
    neighbours = {"relevance": "neighbours", "neighbours": k}
    assert reindex(settings, spec(dataset="few", protocol=neighbours)) == "v1"
    measured = evaluate_version("few__code", "main", None, Protocol(ties="by-id", **neighbours)).measured
    exact = np.square(queries[:, None].astype(float) - X[None]).sum(axis=2).argsort(axis=1)[:, :k]
    for factor in OVERSAMPLING:
        table, hits = opening.open("few__code"), 0
        read = np.zeros(len(X), bool)
        for query, expected in zip(queries, exact, strict=True):
            (candidates,), (found,) = (table.search(query[None], *of)[1] for of in ((factor * k,), (k, factor * k)))
            read[candidates] = True
            np.testing.assert_array_equal(table.resident.vectors._parts[0].known, read)
            hits += len(np.intersect1d(found, expected))
        recall = measured.metrics[f"recall_reranked_x{factor}"].value
        assert (len(candidates), hits / exact.size) == (factor * k, pytest.approx(recall))


def full_disk(*_):
    raise OSError(28, "No space left")


def test_vectors_that_change_while_they_are_read_are_lost(settings, source, monkeypatch):
    read = vectors.PageReader.read_pages

    def change_and_read(reader, pages):
        if reader._url.endswith("1.parquet"):
            write(source, "1.parquet", blobs(100, D, seed=9, first_id=1000))
        return read(reader, pages)

    monkeypatch.setattr(vectors.PageReader, "read_pages", change_and_read)
    table = opening.open(TABLE)
    with pytest.raises(ValueError, match="the source of 200 rows has changed"):
        table.search(QUERIES, 5, rerank=800)
    assert table.search(QUERIES, 5, rerank=600, where=table.ids >= 2000)[1].shape == (len(QUERIES), 5)


def test_vectors_of_a_new_version_are_copied_or_read(settings, source, monkeypatch):
    before = opening.open(TABLE)
    before.read_vectors()
    changed = blobs(150, D, seed=7, first_id=1000)
    write(source, "1.parquet", changed)
    deletion.delete("mine", np.array([5, 3001]))
    reindex(settings)
    after = opening.open(TABLE)
    unchanged = part_of(settings, "2.parquet")
    assert unchanged in [shard.part for shard in before.shards]
    cached = after.resident.cache_vectors(after.dataset, before.resident)
    assert [part.known.all() for part in cached._parts] == [part.part == unchanged for part in cached._parts]
    cached.read_all()
    ids = np.concatenate([IDS[IDS < 1000], changed.ids, IDS[IDS >= 2000]])
    x = np.concatenate([X[IDS < 1000], changed.x, X[IDS >= 2000]])
    kept = ~np.isin(ids, [5, 3001])
    np.testing.assert_array_equal(after.ids, ids[kept])
    rows = after.resident.part_rows(np.arange(len(after.ids)))
    assert cached.read(rows).all()
    np.testing.assert_array_equal(cached.x[rows], x[kept])


def test_following_searches_end_in_the_version_where_they_began(settings, source):
    with opening.open(TABLE, follow=True, seconds=1000) as table:
        assert not table.refresh()
        with table.pinned() as first:
            expected = first.search(QUERIES, 9, rerank=20)
            write(source, "1.parquet", blobs(150, D, seed=7, first_id=1000))
            assert reindex(settings) == "v2"
            assert table.refresh()
            with table.pinned() as second:
                assert (first.version.name, second.version.name) == ("v1", "v2")
                assert second.resident.vectors
            for found, there in zip(first.search(QUERIES, 9, rerank=20), expected, strict=True):
                np.testing.assert_array_equal(found, there)
            alone = opening.open(TABLE).search(QUERIES, 9, rerank=20)
            for found, there in zip(table.search(QUERIES, 9, rerank=20), alone, strict=True):
                np.testing.assert_array_equal(found, there)
            write(source, "2.parquet", blobs(50, D, seed=8, first_id=2000))
            assert reindex(settings) == "v3"
            assert not table.refresh()  # three versions would be in memory
            old = weakref.ref(first.resident)
            del first
        gc.collect()
        assert old() is None
        assert table.refresh()
        assert table.search(QUERIES, 1000)[1].shape[1] == 600


def test_follower_refuses_other_versions_and_masks_of_one_version(settings, source):
    for options in ({"version": "v1"}, {"resident": False}):
        with pytest.raises(ValueError, match="follow: expected version='main', and resident=True or index='stored'"):
            opening.open(TABLE, follow=True, **options)
    with opening.open(TABLE, follow=True) as table:
        with pytest.raises(ValueError, match=r"where: .* found bool .*: search in `pinned\(\)`"):
            table.search(QUERIES, where=np.ones(800, bool))
        with table.pinned() as version:
            assert version.search(QUERIES, 3, where=version.ids < 1000)[1].max() < 1000
        assert len(table.within(QUERIES, 16, where=2)[1]) == len(QUERIES) * (LABELS.argmax(axis=1) == 2).sum()


def test_errors_of_following_are_logged_and_its_thread_ends(settings, source, caplog):
    table = opening.open(TABLE, follow=True, seconds=0.01)
    seen, more = Event(), Event()

    def fails(reader):
        (more if seen.is_set() else seen).set()
        raise ConnectionError("no catalog")

    table._newer = fails
    assert seen.wait(300)
    assert more.wait(300)
    assert "cannot open the published version: no catalog" in caplog.text
    assert table.search(QUERIES, 3)[1].shape == (len(QUERIES), 3)
    target = weakref.ref(table)
    del table
    while target():  # the thread holds it while it looks
        gc.collect()


def test_threads_search_while_versions_are_published(settings, source):
    """Each answer is that of one version, whatever is published meanwhile."""
    counts, done = {800 - 10 * i: i for i in range(4)}, Event()

    def search(seed):
        answers = 0
        while not done.is_set() or answers < 5:
            mine = QUERIES[seed::3]
            with table.pinned() as version:
                found = version.ids[version.ids < 2000] if seed == 0 else version.ids  # rows whose source stays
                options = {"rerank": 800, "where": version.ids < 2000} if seed == 0 else {}
                distances, ids = version.search(mine, 800, **options)
                assert version.version.name == f"v{1 + counts[version.rows]}"
                assert all(np.array_equal(np.sort(row), found) for row in ids)
                expected = opened.setdefault((seed, version.rows), (distances, ids))
            np.testing.assert_array_equal(ids, expected[1])
            np.testing.assert_array_equal(distances, expected[0])
            assert table.search(mine[:1], 1)[1].shape == (1, 1)
            answers += 1
        return answers

    opened = {}
    with opening.open(TABLE, follow=True, seconds=0.05) as table, ThreadPoolExecutor(3) as pool:
        try:
            searches = [pool.submit(search, seed) for seed in range(3)]
            for i in range(1, 3):
                write(source, "2.parquet", blobs(200, D, seed=2, first_id=2000).take(slice(0, 200 - 10 * i)))
                assert reindex(settings) == f"v{i + 1}"
        finally:
            done.set()
        assert min(search.result() for search in searches) >= 5
        while table.refresh():
            pass
        assert table.search(QUERIES, 800)[1].shape[1] == 780
    assert len({rows for _, rows in opened}) >= 2
