"""A warehouse of hashkiln 0.1.0, read, searched, evaluated, re-indexed and garbage-collected by the present program."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from infra.settings import Settings
from storage.features import keys
from storage.features.contract import SourceRefused
from tests.workflows.conftest import encoded_from_source, unpacked
from tests.workflows.make_warehouse_0_1 import ARCHIVE, ROOT, write
from tests.workflows.tables.published_table import hashkiln, in_days, reindex, rows_of, table_of
from workflows.ingested import dataset_of
from workflows.spec import Spec
from workflows.tables.gc import gc

TABLES = {
    "mine__itq8": {"method": {"method": "itq", "bits": 8, "parameters": {"n_iter": 20}}, "protocol": {"queries": 10}},
    "mine__lsh16": {
        "method": {"method": "lsh", "bits": 16},
        "protocol": {"relevance": "neighbours", "neighbours": 5, "queries": 10},
    },
}
OPTIONS = {
    "mine__itq8": ("--method", "itq", "--bits", "8", "--set", "n_iter=20", "--queries", "10"),
    "mine__lsh16": ("--method", "lsh", "--bits", "16", "--relevance", "neighbours", "--neighbours", "5"),
}
EVALUATED = {"mine__itq8": (), "mine__lsh16": ("--relevance", "neighbours", "--neighbours", "5")}
SEARCHED = {
    "mine__itq8": ("mine__itq8",),
    "mine__itq8 v1": ("mine__itq8", "--version", "v1"),
    "mine__lsh16": ("mine__lsh16", "--rerank", "20"),
}
EACH = pytest.mark.parametrize("table", TABLES)


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """Return settings of the warehouse, at the path that its tables refer to."""
    with unpacked(ARCHIVE, ROOT):
        monkeypatch.setenv("HASHKILN_HOME", str(ROOT / "home"))
        monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
        yield Settings()


def spec(table, **changes):
    return Spec.model_validate({"dataset": "mine", **TABLES[table], "gate": {"max_loss": {"map": 1}}, **changes})


def recorded(what):
    return json.loads((ROOT / "expected.json").read_text())[what]


def found(*args):
    code, output = hashkiln(*args, "--json")
    assert code == 0, output
    return json.loads(output)


def search(name, tmp_path):
    queries, out = str(ROOT / "queries.npy"), str(tmp_path / "found.parquet")
    found("search", *SEARCHED[name], "--queries", queries, "--k", "5", "--out", out)
    rows = pq.read_table(out).to_pydict()
    expected = recorded("search")[name]
    assert [rows["query"], rows["rank"], rows["id"]] == [expected["query"], expected["rank"], expected["id"]]
    assert rows["distance"] == pytest.approx(expected["distance"], rel=1e-6)


def values(report):
    return {name: estimate["value"] for name, estimate in report["measured"]["metrics"].items()}


def stamps(*folders):
    """Return path -> (inode, modification time); a rewritten file has another inode."""
    files = [path for folder in folders for path in (ROOT / "home" / "warehouse" / folder).rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@EACH
def test_history_lists_every_version(table):
    expected = recorded("history")[table]
    for event, old in zip(found("history", table), expected, strict=True):
        for name in ("version", "published", "what", "when", "rows", "model", "metrics", "by"):
            assert event[name] == old[name]


@EACH
def test_reindex_finds_nothing_to_do(settings, table):
    before = stamps("codes", "models")
    outcome = found("reindex", "--dataset", "mine", *OPTIONS[table])
    assert (outcome["unchanged"], outcome["version"], outcome["rows"]) == (True, "v3", 60)
    assert reindex(settings, spec(table)) == "v3"
    after = stamps("codes", "models")
    (upgraded,) = after.keys() - before.keys()  # one commit raises the format of the table
    assert upgraded.endswith(".metadata.json")
    assert after == before | {upgraded: after[upgraded]}


def test_the_dataset_ingested_again_is_the_same_and_cannot_have_other_columns(settings):
    ingest = "ingest", str(ROOT / "source"), "--name", "mine", "--replace", "--key-column", "sku"
    columns = "--vector-column", "embedding"
    with pytest.raises(SourceRefused, match=r"found no labels; .* remains in table mine__itq8, table mine__lsh16"):
        hashkiln(*ingest, *columns)
    found(*ingest, *columns, "--label-column", "tags")
    assert found("reindex", "--dataset", "mine", *OPTIONS["mine__itq8"])["unchanged"]


@EACH
def test_only_a_changed_shard_is_encoded_and_by_the_stored_model(settings, table):
    parts, model = parts_of(settings, table), table_of(settings, table).version().properties["model"]
    before = stamps("models")
    write("b.parquet", 100, 31, 7, 1_800_000_000)
    assert reindex(settings, spec(table)) == "v4"
    assert parts_of(settings, table)["a.parquet"] == parts["a.parquet"]
    version = table_of(settings, table).version()
    assert (version.properties["encoded"], version.properties["model"]) == ("30", model)  # p103 stays deleted
    assert stamps("models").keys() == before.keys()
    assert rows_of(settings, name=table) == encoded_from_source(settings, dataset_of(spec(table), settings), table)


@pytest.mark.parametrize("name", SEARCHED)
def test_search_finds_the_recorded_rows(tmp_path, name):
    search(name, tmp_path)


@EACH
def test_evaluate_gives_the_recorded_metrics_from_the_cache(table):
    before = stamps("kept", "truth", "queries")
    expected = recorded("evaluate")[table]
    report = found("evaluate", table, *EVALUATED[table])
    metrics = {name: value for name, value in values(report).items() if name in values(expected)}  # others are newer
    assert metrics == pytest.approx(values(expected), rel=1e-9)
    assert list(report["health"].values()) == pytest.approx(list(expected["health"].values()), rel=1e-9)
    after = stamps("kept", "truth", "queries")
    made = {Path(path).parent.name for path, (inode, _) in after.items() if inode != before.get(path, (0, 0))[0]}
    used = {Path(path).parent.name for path in before if after[path] != before[path]}  # its age counts from now
    # The ground truth of a dataset with deletions has another name than in 0.1, and is made from the kept neighbours.
    assert (made, used) == {"mine__itq8": (set(), {"kept"}), "mine__lsh16": ({"kept", "truth"}, {"kept"})}[table]


@EACH
def test_verify_finds_no_problem(table):
    report = found("verify", table, "--deep")
    assert (report["problems"], report["rows"], report["rechecked"], report["near"]) == ([], 60, 2, 0)


@EACH
def test_deleted_rows_are_in_no_new_version_and_in_no_shard(settings, table):
    dataset = dataset_of(spec(table), settings)
    gone = set(keys.find_ids(dataset.keys, ["p007", "p103"], "the test").tolist())
    assert gone <= rows_of(settings, "v2", table).keys()
    assert not gone & rows_of(settings, "v3", table).keys()
    assert not gone & {i for shard in dataset.shards("base") for batch in shard for i in batch.ids.tolist()}


def test_garbage_collection_keeps_everything_referenced(settings, tmp_path):
    needed = {part.url for table in TABLES for part in parts_of(settings, table).values()}
    needed |= {str(ROOT / "home" / "warehouse" / name) for name in ("datasets/mine", "queries/mine/current.json")}
    needed |= {table_of(settings, table).iceberg.metadata_location.removeprefix("file://") for table in TABLES}
    models = {table_of(settings, table).version().properties["model"] for table in TABLES}
    names = [item.name for item in gc(dry_run=True, clock=in_days(400)).items]
    assert {"v1", "v2"} <= set(names)  # they hold the deleted rows
    assert not [name for name in names if name in needed | {"v3"} or "/datasets/" in name]
    assert not [name for name in names if any(model in name for model in models)]
    gc(clock=in_days(400))
    for table in TABLES:
        assert found("verify", table, "--deep")["problems"] == []
        assert reindex(settings, spec(table)) == "v3"
    search("mine__itq8", tmp_path)
    search("mine__lsh16", tmp_path)


def parts_of(settings, table):
    opened = table_of(settings, table)
    return opened.parts(opened.version().snapshot_id)
