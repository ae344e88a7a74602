"""Deletion by id: rows are hidden at once, and removed from every file by a deadline."""

import json
import os
import pty
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.executors import InProcess
from storage import queries, warehouse
from storage.features import deletions
from storage.features.rows import Columns
from storage.files import filesystem
from storage.tables import log, parts
from storage.tables.commits import PublishConflict
from tests.conftest import blobs
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import (
    NAMES,
    TABLE,
    D,
    hashkiln,
    in_days,
    part_of,
    reindex,
    rows_of,
    spec,
    table_of,
    write,
)
from workflows import datasets, opening
from workflows.checks import UsageError
from workflows.context import Context
from workflows.evaluation.judge import draw_queries, judge_of
from workflows.ingested import dataset_of
from workflows.reindex import fitting, gate, publishing, staging
from workflows.tables import deletion, gc, history, verify

settings, source = published_table.settings, published_table.source  # fixtures


def test_deleted_rows_are_hidden_at_once_and_gone_from_every_file_by_the_deadline(settings, source, tmp_path):
    before = rows_of(settings)
    reindex(settings, spec(bits=8, code="short"))
    write(source, "3.parquet", blobs(200, D, seed=3, first_id=3000).take(slice(0, 100)))
    assert reindex(settings) == "v2"
    drawn = queries.load_queries(settings.warehouse_url, "mine").ids
    gone = np.unique([5, 6, 1003, 3001, 3150, int(drawn[0])])
    found = deletion.delete("mine", gone, purge_after=30)
    published = {TABLE: "v3", "mine__short": "v2"}
    there = set(gone.tolist()) - {3150}
    assert (found.ids, found.rows, found.queries, found.published) == (len(gone), len(there), 1, published)
    assert rows_of(settings) == {i: code for i, code in rows_of(settings, "v2").items() if i not in there}
    assert len(rows_of(settings, name="mine__short")) == 800 - len(gone)
    untouched = {n for n in NAMES if part_of(settings, n) == part_of(settings, n, "v2")}
    assert untouched == set(NAMES) - {f"{i // 1000}.parquet" for i in there}
    assert drawn[0] not in queries.load_queries(settings.warehouse_url, "mine").ids
    assert history.diff(TABLE, "v1", "v3").measured_at == ("v1", "v2")
    # nothing reads them any more, and no run encodes anything for it
    assert reindex(settings) == "v3"
    assert reindex(settings, spec(bits=8, code="short")) == "v3"  # 3.parquet has changed
    dataset = dataset_of(spec(), settings)
    read = np.concatenate([batch.ids for shard in dataset.shards("base") for batch in shard])
    assert not np.isin(read, gone).any()
    assert sum(shard.rows for shard in dataset.shards("base")) == len(read)
    assert reindex(settings, spec(code="fresh")) == "v1"
    assert not set(gone.tolist()) & rows_of(settings, name="mine__fresh").keys()
    assert verify.verify(TABLE, deep=True).problems == ()
    # versions with them can be searched and measured until they are due
    x = blobs(200, D, seed=0).x[5:6]
    assert 5 in opening.open(TABLE, "v1").search(x, 800)[1]
    assert opening.open(TABLE, "v2").search(x, 1, rerank=50)[1].tolist() == [[5]]
    assert 5 not in opening.open(TABLE).search(x, 800)[1]
    judge = judge_of(Context.of(spec(), settings, InProcess()), table_of(settings).vocabulary)
    assert not np.isin(judge.queries.ids, gone).any()
    with pytest.raises(ValueError, match="cannot roll back to v1: it holds deleted rows, and is removed by"):
        history.rollback(TABLE, "v1")
    assert gc.gc(grace=7, clock=in_days(22)).items != ()  # steps of stagings, and no version
    assert {version.name for version in table_of(settings).versions()} == {"v1", "v2", "v3"}
    purged = gc.gc(grace=7, clock=in_days(24))
    assert {(item.table, item.name) for item in purged.items if item.kind == "version"} == {
        (TABLE, "v1"), (TABLE, "v2"), ("mine__short", "v1"), ("mine__short", "v2"),
    } - {("mine__short", "v2")}  # fmt: skip
    left = [path for path in (settings.home / "warehouse").rglob("*.parquet") if path.parent.name != "deleted"]
    for path in left:
        if path.parent.name != "truth" and "id" in pq.read_schema(path).names:
            assert not np.isin(pq.read_table(path)["id"].to_numpy(), gone).any(), path
    assert len(before) == 800


def test_deletion_on_s3_and_postgresql(s3, postgresql, tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_WAREHOUSE", f"{s3}/{tmp_path.name}")
    monkeypatch.setenv("HASHKILN_CATALOG", postgresql())
    settings = published_table.embedded(tmp_path, monkeypatch)
    published_table.published(settings, tmp_path / "source")
    assert deletion.delete("mine", [5, 1005]).published == {TABLE: "v2"}
    assert reindex(settings) == "v2"
    assert verify.verify(TABLE, deep=True).problems == ()
    purged = gc.gc(grace=7, clock=in_days(24))
    assert [item.name for item in purged.items if item.kind == "version"] == ["v1"]
    folder = table_of(settings).folder + "/data"
    left = np.concatenate([parts.read_ids(file.url) for file in filesystem.inventory(folder)])
    assert sorted(left.tolist()) == sorted(rows_of(settings))
    assert not {5, 1005} & rows_of(settings).keys()


def test_a_deleted_row_that_reappears_in_another_file_stays_deleted(settings, source):
    deletion.delete("mine", [7])
    write(source, "new.parquet", blobs(20, D, seed=5, first_id=7).take(slice(0, 1)))
    write(source, "more.parquet", blobs(20, D, seed=6, first_id=6000))
    assert reindex(settings) == "v3"
    assert 7 not in rows_of(settings)
    assert part_of(settings, "new.parquet").rows == 0
    assert len(rows_of(settings)) == 800 - 1 + 20


def test_an_interrupted_deletion_is_completed_by_the_next_and_deletion_is_idempotent(settings, source):
    dataset = dataset_of(spec(), settings)
    ids = np.array([3, 4])
    folder = warehouse.DELETIONS.url(settings.warehouse_url, dataset="mine")
    deletions.add_deletion(folder, ids, {"base": ["0.parquet"]}, "me")  # and then the machine died
    assert reindexed_version(settings, dataset, "0.parquet") != part_of(settings, "0.parquet").version
    found = deletion.delete("mine", ids)
    assert found.published == {TABLE: "v2"}
    assert reindex(settings) == "v2"
    again = deletion.delete("mine", ids)
    assert again.published == {}  # only v1 still has them: the time is noted, and nothing is rewritten
    assert table_of(settings).version().name == "v2"
    assert len(deletions.deletion_files(folder)) == 1


def reindexed_version(settings, dataset, name):
    return next(s.version for s in dataset_of(spec(), settings).shards("base") if s.name == name)


def test_all_rows_of_a_shard_can_be_deleted(settings, source):
    deletion.delete("mine", np.arange(2000, 2200))
    assert part_of(settings, "2.parquet").rows == 0
    assert len(rows_of(settings)) == 600
    assert reindex(settings) == "v2"
    assert verify.verify(TABLE, deep=True).problems == ()


def test_unknown_ids_are_refused_and_nothing_is_written(settings, source, tmp_path):
    with pytest.raises(ValueError, match=r"mine has no row with any of the 2 given ids, such as 77777"):
        deletion.delete("mine", [77777, 88888])
    with pytest.raises(UsageError, match="expected ids of rows of mine to delete, found none"):
        deletion.delete("mine", [])
    assert deletions.deletion_files(warehouse.DELETIONS.url(settings.warehouse_url, dataset="mine")) == ()
    for wrong in ("1;2", str(10**20), str(2**63), "1_000", "+1", "1 0", "１", "٣", "0x1", "--1", "", "1.0", 1.0, True):
        with pytest.raises(ValueError, match=f"64-bit integers such as 7 or -12, found {re.escape(repr(wrong))}"):
            deletion.delete("mine", ["3", wrong])
    for text in ("1_000", "3\n1_000\n"):  # which int() takes for 1000, a row
        (tmp_path / "wrong.txt").write_text(text)
        with pytest.raises(ValueError, match="found '1_000'"):
            hashkiln("delete", "mine", "--ids", str(tmp_path / "wrong.txt"), "--yes")
    assert deletions.deletion_files(warehouse.DELETIONS.url(settings.warehouse_url, dataset="mine")) == ()
    (tmp_path / "ids.txt").write_text("1\n2\n")
    for ids, published in (("1,2", [TABLE]), (str(tmp_path / "ids.txt"), [])):
        found = json.loads(hashkiln("delete", "mine", "--ids", ids, "--purge-after", "14d", "--yes", "--json")[1])
        assert (found["ids"], found["rows"], list(found["published"])) == (2, 2, published)


def asked(answer, ids):
    """Run `hashkiln delete` on a terminal with an answer; return exit code and output."""
    ours, theirs = pty.openpty()
    os.write(ours, answer.encode())
    command = [sys.executable, "-m", "workflows.cli", "delete", "mine", "--ids", ids]
    ended = subprocess.run(command, stdin=theirs, capture_output=True, text=True, timeout=600, check=False)
    os.close(ours)
    os.close(theirs)
    return ended.returncode, ended.stdout + ended.stderr


def test_a_deletion_is_confirmed(settings, source):
    folder = warehouse.DELETIONS.url(settings.warehouse_url, dataset="mine")
    assert hashkiln("delete", "mine", "--ids", "7,12")[0] == 2  # no terminal to confirm on
    code, output = asked("n\n", "7,12,77777")
    assert (code, deletions.deletion_files(folder)) == (1, ())
    assert "2 rows in the files of mine, for 3 ids: 7, 12, …" in output
    assert "Delete permanently, from every version? [y/N]" in output
    code, output = asked("\n", ",".join(map(str, range(100))))
    assert (code, deletions.deletion_files(folder)) == (1, ())
    assert "100 rows in the files of mine, for 100 ids: 0, 1, 2, 3, 4, …" in output
    code, output = asked("y\n", "7,12")
    assert (code, len(deletions.deletion_files(folder)), table_of(settings).version().name) == (0, 1, "v2")
    assert "Published mine__code v2 without the deleted rows" in output


def test_rows_named_by_keys_are_deleted_by_key(settings, tmp_path):
    batch = blobs(120, D)
    table = pa.table({"name": [f"row {i}" for i in batch.ids], "vector": list(batch.x)})
    (tmp_path / "keyed").mkdir()
    pq.write_table(table, tmp_path / "keyed" / "0.parquet")
    datasets.ingest_source("mine", str(tmp_path / "keyed"), settings, Columns(id="name", keyed=True))
    assert reindex(settings) == "v1"
    before = rows_of(settings)
    found = deletion.delete("mine", ["row 7", "row 100"])
    assert (found.ids, found.rows, len(rows_of(settings))) == (2, 2, 118)
    assert rows_of(settings).items() < before.items()
    assert reindex(settings) == "v2"
    preview = deletion.preview("mine", ["row 9", "row 7", "row 101"])  # the files still have row 7
    assert (preview.rows, preview.examples) == (3, ("row 9", "row 7", "row 101"))
    with pytest.raises(ValueError, match="unknown key 'row 500', in the rows of mine to delete"):
        deletion.delete("mine", ["row 500"])


def test_a_version_published_during_a_deletion_is_processed_too(settings, source):
    published = []

    def meanwhile(label, done, total):
        if label.startswith("rewrite") and not published:
            write(source, "9.parquet", blobs(70, D, seed=10, first_id=9000))
            published.append(reindex(settings))

    assert deletion.delete("mine", [5, 1005], progress=meanwhile).published == {}  # v2 was made without the rows
    assert published == ["v2"]
    assert rows_of(settings).keys() == rows_of(settings, "v1").keys() - {5, 1005} | set(range(9000, 9070))
    assert reindex(settings) == "v2"
    assert [version.name for version in table_of(settings).versions() if version.number > 0] == ["v1", "v2"]


def test_a_first_version_that_a_run_publishes_during_a_deletion_is_processed_too(settings, source):
    """The run has looked for deletions just before this one is recorded."""
    of, staged, published = spec(code="new"), [], []

    def meanwhile(label, done, total):
        if label == "find in base" and not staged:  # the table does not exist yet
            context = Context.of(of, settings, InProcess())
            staged.append(staging.stage(context, fitting.fit(context)))
        elif label == "find in mine__new" and not published:
            table = table_of(settings, "mine__new")
            published.append(table.publish(table.version(staged[0].branch), staged[0].base_snapshot).name)

    assert deletion.delete("mine", [5], progress=meanwhile).published == {TABLE: "v2", "mine__new": "v2"}
    assert published == ["v1"]
    assert rows_of(settings, name="mine__new").keys() == rows_of(settings, "v1", "mine__new").keys() - {5}
    assert reindex(settings, of) == "v2"


@pytest.mark.parametrize("first", ["published", "empty"])
@pytest.mark.parametrize("when", ["listed", "staged"])
def test_a_run_does_not_publish_rows_that_are_deleted_meanwhile(settings, source, first, when):
    write(source, "9.parquet", blobs(70, D, seed=10, first_id=9000))
    of = spec() if first == "published" else spec(code="new")
    context = Context.of(of, settings, InProcess())
    model = fitting.fit(context)
    if when == "listed":
        deletion.delete("mine", [9005])
    staged = staging.stage(context, model)
    if when == "staged":
        deletion.delete("mine", [9005])
    report = gate.evaluate_staged(context, staged)
    with pytest.raises(PublishConflict):
        publishing.publish(context, staged, report, gate.gate(context, staged, report), "page")
    table = table_of(settings, staged.table)
    assert 9005 in rows_of(settings, staged.branch, staged.table)
    assert staged.branch in log.purge_deadlines(table)  # `gc` removes it, although its base may stay published
    reindex(settings, of)
    assert 9000 in rows_of(settings, name=staged.table)
    assert 9005 not in rows_of(settings, name=staged.table)


def test_queries_that_are_drawn_during_a_deletion_are_without_the_rows(settings, source):
    url, done = settings.warehouse_url, []
    drawn = queries.load_queries(url, "mine").ids.tolist()
    queries.forget_queries(url, "mine")

    def meanwhile(label, n, total):
        if label == "sample queries" and n == total and not done:
            done.append(deletion.delete("mine", drawn[:1]))

    assert draw_queries(Context.of(spec(), settings, InProcess(meanwhile))).ids.tolist() == drawn[1:]
    assert done[0].queries == 0  # none was saved yet


def test_deleted_rows_are_not_relevant_in_a_file_that_was_away_meanwhile(settings, source):
    """It has its old version, under which the ground truth is cached."""
    of = spec(protocol={"queries": 30, "relevance": "neighbours", "neighbours": 20})

    def relevant():
        return judge_of(Context.of(of, settings, InProcess()), ()).neighbours

    gone = int(next(i for i in relevant().ravel() if i >= 3000))
    (source / "3.parquet").rename(source / "aside")
    deletion.delete("mine", [gone])
    (source / "aside").rename(source / "3.parquet")
    assert gone not in relevant()


def test_rows_that_are_numbered_are_not_deleted_by_number(settings, tmp_path):
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "0.npy", np.eye(4, dtype=np.float32))
    datasets.ingest_source("numbered", str(tmp_path / "x"), settings, Columns(x=""))
    for refuse in (deletion.delete, deletion.preview):
        with pytest.raises(UsageError, match="rows of numbered have no ids of their own"):
            refuse("numbered", [1])
