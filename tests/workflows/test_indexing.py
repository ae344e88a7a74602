"""Searches by a multi-index, in memory or stored beside the parts."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from hashing.neighbours import multi_index
from infra.executors import InProcess
from storage.files import filesystem
from storage.tables import garbage, part_index
from tests.conftest import blobs
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import TABLE, D, part_of, reindex, spec, table_of, write
from workflows import indexing, opening
from workflows.context import Context
from workflows.reindex import pipeline
from workflows.reindex.run import nothing_to_do
from workflows.tables import deletion

settings, source = published_table.settings, published_table.source  # fixtures
QUERIES = np.concatenate([blobs(200, D, seed=seed).x[::37] for seed in range(4)]) + np.float32(0.1)
WAYS = ({"index": True}, {"index": "stored"}, {"index": "stored", "resident": False})


def assert_equal_results(reader, plain):
    calls = [
        lambda of: of.search(QUERIES, 9),
        lambda of: of.search(QUERIES, 9, rerank=30),
        lambda of: of.search(QUERIES, 9, asymmetric=True),
        lambda of: of.search(QUERIES[:1], 2000),
        lambda of: of.within(QUERIES, 3),
        lambda of: of.within(QUERIES, 16),
    ]
    if reader.resident:
        calls += [lambda of: of.search(QUERIES, 9, where=2), lambda of: of.within(QUERIES, 3, where=2)]
    for call in calls:
        for found, expected in zip(call(reader), call(plain), strict=True):
            np.testing.assert_array_equal(found, expected)


def index_files(settings):
    return {url.rpartition("/")[2] for url in part_index.indexed_parts(table_of(settings).folder)}


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("share", [1, 1e9], ids=["both", "index"])
def test_an_index_changes_no_result_and_follows(way, share, settings, source, monkeypatch):
    monkeypatch.setattr(multi_index, "SHARE", share)
    with opening.open(TABLE, follow=True, **way) as table:
        for version in ("v1", "v2"):
            plain = opening.open(TABLE)
            with table.pinned() as reader:
                assert (reader.version.name, reader.index.rows) == (version, plain.rows)
                assert_equal_results(reader, plain)
            if version == "v1":
                write(source, "1.parquet", blobs(150, D, seed=7, first_id=-2000))
                assert reindex(settings) == "v2"
                assert table.refresh()
    deletion.delete("mine", plain.ids)
    assert opening.open(TABLE, **way).search(QUERIES)[1].shape == (len(QUERIES), 0)


def test_options_that_exclude_each_other_are_refused(settings, source):
    with pytest.raises(ValueError, match="index: expected resident=True, or index='stored'"):
        opening.open(TABLE, index=True, resident=False)
    with pytest.raises(ValueError, match="index: expected True, False or 'stored', found 'kept'"):
        opening.open(TABLE, index="kept")
    with pytest.raises(ValueError, match="where: expected rows in memory"):
        opening.open(TABLE, index="stored", resident=False).search(QUERIES, where=2)


def test_only_the_indexes_of_new_parts_are_stored(settings, source, monkeypatch):
    assert index_files(settings) == set()
    stored, store = [], indexing._store_one
    monkeypatch.setattr(indexing, "_store_one", lambda shard: stored.append(shard.part.shard) or store(shard))
    opening.open(TABLE)
    opening.open(TABLE, index=True)
    assert stored == []  # an index is stored only on request
    opening.open(TABLE, index="stored")
    assert len(stored) == len(index_files(settings)) == 4
    opening.open(TABLE, index="stored", resident=False)
    assert len(stored) == 4
    write(source, "1.parquet", blobs(150, D, seed=7, first_id=1000))
    assert reindex(settings) == "v2"
    opening.open(TABLE, index="stored")
    assert stored[4:] == ["1.parquet"]
    garbage.collect(table_of(settings), 0, keep=1)
    assert len(index_files(settings)) == 4
    assert_equal_results(opening.open(TABLE, index="stored", resident=False), opening.open(TABLE))
    assert len(stored) == 5


def test_reindex_stores_what_is_missing_when_asked(settings, source, monkeypatch):
    assert nothing_to_do(spec())
    assert index_files(settings) == set()
    monkeypatch.setattr("workflows.reindex.run.store_missing", lambda *_: pytest.fail("wrote an index"))
    assert nothing_to_do(spec())
    monkeypatch.undo()
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    monkeypatch.setenv("HASHKILN_HOME", str(settings.home))
    assert nothing_to_do(spec(index=True)).version == "v1"
    assert len(index_files(settings)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:1000],
        lambda content: content + b"\0",
        lambda content: content[:2000] + bytes([content[2000] ^ 4]) + content[2001:],
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
    ],
    ids=["empty", "torn", "longer", "a bit", "the digest"],
)
def test_damaged_files_are_stored_again(damage, settings, source, caplog):
    opening.open(TABLE, index="stored")
    url = part_index.index_url(part_of(settings, "2.parquet").url)
    intact = filesystem.read_bytes(url)
    filesystem.write_bytes(url, damage(intact))
    part_index._verified.clear()  # as in a new process
    reader = opening.open(TABLE, index="stored", resident=False)
    assert filesystem.read_bytes(url) == intact
    assert len(damage(intact)) == 0 or f"index file {url} is damaged" in caplog.text
    assert_equal_results(reader, opening.open(TABLE))


def test_an_index_of_another_format_is_not_read(settings, source, monkeypatch):
    opening.open(TABLE, index="stored")
    before = index_files(settings)
    monkeypatch.setattr(part_index, "FORMAT", "2")
    assert_equal_results(opening.open(TABLE, index="stored"), opening.open(TABLE))
    assert index_files(settings) == before | {name.replace("-1.mih", "-2.mih") for name in before}
    garbage.collect(table_of(settings), 0)
    assert index_files(settings) == {name.replace("-1.mih", "-2.mih") for name in before}


def test_a_reader_keeps_its_index_when_the_files_are_deleted(settings, source):
    reader, plain = opening.open(TABLE, index="stored", resident=False), opening.open(TABLE)
    for url in part_index.indexed_parts(table_of(settings).folder):
        filesystem.remove(url)
    assert_equal_results(reader, plain)


def test_indexes_are_stored_on_s3(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_WAREHOUSE", f"{s3}/{tmp_path.name}")
    published_table.published(published_table.embedded(tmp_path, monkeypatch), tmp_path / "source")
    reader = opening.open(TABLE, index="stored", resident=False)
    urls = part_index.indexed_parts(table_of(reader.settings).folder)
    assert len([url for url in urls if url.startswith("s3://")]) == 4
    assert_equal_results(reader, opening.open(TABLE))


def test_threads_search_while_versions_are_published(settings, source):
    """Each answer is that of one version, whatever is published meanwhile."""
    done, opened = Event(), {}

    def search(seed):
        answers = 0
        while not done.is_set() or answers < 5:
            with table.pinned() as version:
                distances, ids = version.search(QUERIES[seed::3], 5)
                found = version.within(QUERIES[seed::3], 3)
                expected = opened.setdefault((seed, version.rows), (distances, ids, *found))
            for one, there in zip((distances, ids, *found), expected, strict=True):
                np.testing.assert_array_equal(one, there)
            answers += 1

    options = {"index": "stored", "resident": False}
    with opening.open(TABLE, follow=True, seconds=0.05, **options) as table, ThreadPoolExecutor(3) as pool:
        try:
            searches = [pool.submit(search, seed) for seed in range(3)]
            for i in range(1, 3):
                write(source, "2.parquet", blobs(200, D, seed=2, first_id=2000).take(slice(0, 200 - 10 * i)))
                assert reindex(settings) == f"v{i + 1}"
        finally:
            done.set()
        for searched in searches:
            searched.result()
        while table.refresh():
            pass
        assert table.search(QUERIES, 800)[1].shape[1] == 780
    plain = opening.open(TABLE).search(QUERIES[::3], 5)
    np.testing.assert_array_equal(opening.open(TABLE, **options).search(QUERIES[::3], 5)[1], plain[1])
    assert len({rows for _, rows in opened}) >= 2


def test_the_pipeline_stores_the_indexes_before_it_publishes(settings, source):
    def run(stage, *args):
        if stage is pipeline.publish:
            found.append(index_files(settings))
        return pipeline.call(stage, *args)

    found = []
    write(source, "1.parquet", blobs(150, D, seed=7, first_id=1000))
    assert pipeline.run_stages(Context.of(spec(index=True), settings, InProcess()), run).version == "v2"
    assert len(found[0]) == 4
