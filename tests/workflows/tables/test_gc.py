"""Garbage collection deletes unreferenced files, and only those."""

import os
import time

import pytest

from infra.executors import InProcess
from storage import models, queries
from storage.files import filesystem
from tests.conftest import blobs
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import (
    DAY,
    TABLE,
    D,
    hashkiln,
    in_days,
    reindex,
    rows_of,
    spec,
    table_of,
    write,
)
from workflows.checks import UsageError
from workflows.cli.maintenance import duration
from workflows.context import Context
from workflows.evaluation import version
from workflows.reindex import fitting
from workflows.tables import gc, verify

settings, source = published_table.settings, published_table.source  # fixtures


def test_unreferenced_models_and_queries_are_deleted(settings, source):
    other = spec(refit="always", method={"method": "lsh", "bits": 16, "seed": 3})
    orphan = fitting.fit(Context.of(other, settings, InProcess())).digest  # fitted, never staged
    used = table_of(settings).version().properties["model"]
    drawn = queries.current_queries(settings.warehouse_url, "mine")
    ids = queries.load_queries(settings.warehouse_url, "mine").ids
    assert queries.remove_queries(settings.warehouse_url, "mine", ids[:1]) == 1
    assert [i for i in gc.gc(grace=7).items if i.kind in ("model", "queries")] == []
    would = gc.gc(grace=7, dry_run=True, clock=in_days(8))
    found = gc.gc(grace=7, clock=in_days(8))
    assert {item.name for item in would.items} == {item.name for item in found.items}
    gone = {item.name for item in found.items if item.kind in ("model", "queries")}
    assert drawn in gone
    assert {name.rsplit("/", 2)[-2] for name in gone} == {"mine", "fits", orphan}
    assert models.load_model(settings.warehouse_url, used).n_bits == 16
    fitted = fitting.fit(Context.of(other, settings, InProcess())).digest  # nothing remembers a model that is not there
    assert models.load_model(settings.warehouse_url, fitted).n_bits == 16
    assert verify.verify(TABLE, deep=True).problems == ()


def test_unused_cache_files_are_deleted_and_computed_again_on_demand(settings, source):
    near = spec(code="near", protocol={"queries": 30, "relevance": "neighbours", "neighbours": 5})
    reindex(settings, near)
    warehouse = settings.home / "warehouse"
    old = {file for folder in ("kept", "truth") for file in (warehouse / folder).iterdir()}
    for file in old:
        os.utime(file, (time.time() - 30 * DAY,) * 2)
    write(source, "1.parquet", blobs(150, D, seed=9, first_id=1000))
    assert reindex(settings, near) == "v2"
    unused = {file for file in old if file.stat().st_mtime < time.time() - DAY}
    assert {file.parent.name for file in unused} == {"kept", "truth"}
    assert {file.parent.name for file in old - unused} == {"kept"}  # what counts were brought up to date from
    would = gc.gc(grace=7, dry_run=True)
    found = gc.gc(grace=7)
    assert found.items == would.items
    assert {(item.kind, item.name) for item in found.items if not item.table} == {
        ({"kept": "cache", "truth": "ground truth"}[file.parent.name], str(file)) for file in unused
    }
    table = table_of(settings, "mine__near")
    of = (Context.of(near, settings, InProcess()), table, table.version(), table.version("v1"))
    before = version.measure_version(*of)
    gc.gc(grace=7, clock=in_days(8))
    assert not [file for folder in ("kept", "truth") for file in (warehouse / folder).iterdir()]
    assert version.measure_version(*of) == before


def test_unreferenced_files_are_deleted_on_s3_and_postgresql(s3, postgresql, tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_WAREHOUSE", f"{s3}/{tmp_path.name}")
    monkeypatch.setenv("HASHKILN_CATALOG", postgresql())
    settings = published_table.embedded(tmp_path, monkeypatch)
    published_table.published(settings, tmp_path / "source")
    lists = filesystem.join(settings.training_url, "0" * 16, "checkpoint", "state.pt")
    filesystem.write_bytes(lists, b"of a run that nobody ends")
    parts, before = rows_of(settings), filesystem.inventory(settings.warehouse_url)
    assert {item.kind for item in gc.gc(grace=7, dry_run=True).items} <= {"snapshot"}
    gone = {item.name for item in gc.gc(grace=7, clock=in_days(8)).items if not item.table}
    assert {name.split("/")[4] for name in gone} == {"kept", "training"}
    assert gone < {file.url for file in before}
    assert not gone & {file.url for file in filesystem.inventory(settings.warehouse_url)}
    assert rows_of(settings) == parts
    assert verify.verify(TABLE, deep=True).problems == ()


def test_models_are_kept_if_the_warehouse_has_tables_unknown_to_the_catalog(settings, source, monkeypatch):
    monkeypatch.setenv("HASHKILN_CATALOG", f"sqlite:///{settings.home / 'other.db'}")
    found = gc.gc(grace=7, clock=in_days(8))
    assert {item.kind for item in found.items} == {"cache"}
    (note,) = found.notes
    assert note.startswith("kept all models, pretrained parameters")
    assert "mine__code" in note


def test_a_short_grace_period_must_be_forced_and_durations_are_parsed(settings, source):
    with pytest.raises(UsageError, match=r"expected a grace of at least one hour, found 0\.5 hours: pass --force"):
        gc.gc(grace=0.5 / 24)
    assert hashkiln("gc", "--grace", "1m", "--force", "--dry-run")[0] == 0
    code, output = hashkiln("gc", TABLE, "--grace", "1h")
    assert (code, output) == (0, "Deleted: snapshot: 3; 0 bytes\n")
    assert hashkiln("gc", TABLE, "--grace", "soon")[0] == 2
    assert [duration(text) for text in ("90m", "36h", "7d")] == [0.0625, 1.5, 7]
