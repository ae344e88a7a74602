"""The first run of a code table: what it leaves behind on failure, and concurrent runs."""

import os
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest

from infra.executors import InProcess
from storage.features.rows import Columns
from storage.tables import iceberg
from storage.tables.table import create_table, table_names
from tests.conftest import blobs
from tests.workflows.conftest import (
    D,
    encoded_from_source,
    published_codes,
    published_rows,
    reindex,
    spec,
    table_of,
    write_shard,
)
from workflows import datasets
from workflows.context import Context
from workflows.records import Verdict
from workflows.reindex import fitting, staging
from workflows.reindex.publishing import GateRejected


def tables(settings):
    return table_names(iceberg.open_catalog(settings.catalog_url, settings.warehouse_url))


def with_nan(rows, first_id):
    batch = blobs(rows, D, seed=1, first_id=first_id)
    batch.x[7, 3] = np.nan
    return batch


@dataclass(frozen=True)
class Meanwhile(InProcess):
    """Calls a function once, before the first task of a kind."""

    do: object = None
    at: str = "encode"
    done: list = field(default_factory=list)

    def map(self, fn, items, label=""):
        if label == self.at and not self.done:
            self.done.append(self.do())
        return super().map(fn, items, label)


@dataclass(frozen=True)
class Counting(InProcess):
    """Records the shards that are encoded."""

    encoded: list = field(default_factory=list)

    def map(self, fn, items, label=""):
        self.encoded.extend(item.name for item in items if label == "encode")
        return super().map(fn, items, label)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": {"queries": 5000}}, "pass fewer by --queries"),
        ({"method": {"method": "dpsh", "bits": 16, "parameters": {"lr": 1e30, "epochs": 1}}}, "expected a finite loss"),
    ],
)
def test_a_fit_that_fails_leaves_no_table(settings, mine, changes, message):
    with pytest.raises(ValueError, match=message):
        reindex(settings, spec(**changes))
    assert tables(settings) == []


def test_a_fit_alone_creates_no_table(settings, mine):
    fitting.fit(Context.of(spec(), settings, InProcess()))
    assert tables(settings) == []


def test_a_fit_is_not_taken_for_one_of_rows_that_changed_while_they_were_read(settings, mine, source):
    def meanwhile(*_):
        if not (source / "old").exists():
            (source / "part3.parquet").rename(source / "old")
            write_shard(source, "part3.parquet", blobs(300, D, seed=9, first_id=3000))

    changed = fitting.fit(Context.of(spec(), settings, InProcess(meanwhile)))
    (source / "old").rename(source / "part3.parquet")  # with its version of before
    assert fitting.fit(Context.of(spec(), settings, InProcess())).digest != changed.digest


def test_rows_refused_in_the_first_shard_leave_no_table(settings, mine, source):
    model = fitting.fit(Context.of(spec(), settings, InProcess()))
    write_shard(source, "part0.parquet", with_nan(200, 0))
    with pytest.raises(ValueError, match="finite"):
        staging.stage(Context.of(spec(), settings, InProcess()), model)
    assert tables(settings) == []
    write_shard(source, "part0.parquet", blobs(200, D, first_id=0))
    assert reindex(settings, spec())[0].encoded == 800
    assert published_codes(settings) == encoded_from_source(settings, mine)


def test_rows_refused_in_a_later_shard_leave_the_parts_before_it(settings, mine, source):
    model = fitting.fit(Context.of(spec(), settings, InProcess()))
    write_shard(source, "part2.parquet", with_nan(200, 2000))
    with pytest.raises(ValueError, match="finite"):
        staging.stage(Context.of(spec(), settings, InProcess()), model)
    (branch,) = table_of(settings).versions()
    assert sorted(table_of(settings).parts(branch.snapshot_id)) == ["part0.parquet", "part1.parquet"]
    write_shard(source, "part2.parquet", blobs(200, D, seed=2, first_id=2000))
    assert reindex(settings, spec())[0].rows == 800
    assert published_codes(settings) == encoded_from_source(settings, mine)


def test_another_number_of_bits_is_refused_before_the_fit(settings, mine):
    reindex(settings, spec(code="c"))
    wide = spec(code="c", refit="always", method={"method": "lsh", "bits": 32})
    with pytest.raises(ValueError, match="table mine__c has codes of 16 bits, not 32: choose another --code"):
        fitting.fit(Context.of(wide, settings, InProcess()))


def test_label_positions_agree_if_another_run_creates_the_table_meanwhile(settings, mine):
    """With the label positions of the first part, the labels would be wrong."""

    def do():
        catalog = iceberg.open_catalog(settings.catalog_url, settings.warehouse_url)
        create_table(catalog, "mine__itq16", 16).add_labels(["zebu", "fox"])

    staged, _, version = reindex(settings, spec(), Meanwhile(do=do))
    assert (version, staged.encoded) == ("v1", 800)
    table, rows = table_of(settings), published_rows(settings)
    assert table.vocabulary[:2] == ("zebu", "fox")
    expected = {}
    for shard in mine.shards("base", table.vocabulary):
        for batch in shard:
            expected |= dict(zip(batch.ids.tolist(), batch.y.argmax(1).tolist(), strict=True))
    assert dict(zip(rows.ids.tolist(), rows.y.argmax(1).tolist(), strict=True)) == expected
    assert published_codes(settings) == encoded_from_source(settings, mine)


def test_a_source_that_changes_before_the_first_shard_is_encoded_is_planned_again(settings, mine, source):
    def do():
        write_shard(source, "part0.parquet", blobs(150, D, seed=9, first_id=0))

    assert reindex(settings, spec(), Meanwhile(do=do))[0].rows == 750
    assert published_codes(settings) == encoded_from_source(settings, mine)


def test_a_shard_that_comes_while_labels_are_read_is_left_to_the_next_run(settings, mine, source):
    """Rows are encoded as they were listed when labels were read, so none has a label without a place."""
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=4000))

    def do():
        write_shard(source, "part5.parquet", blobs(50, D, seed=5, first_id=5000), "aardvark")

    staged, _, version = reindex(settings, spec(), Meanwhile(do=do, at="labels"))
    assert (version, staged.rows) == ("v2", 850)
    verdict = Verdict.model_validate_json(table_of(settings).version().properties["verdict"])
    assert "left to the next run: 1 source file that came since this one listed them" in verdict.notes
    assert reindex(settings, spec())[0].rows == 900
    assert table_of(settings).vocabulary[-1] == "aardvark"


@pytest.mark.parametrize("at", ["keys", "sample queries"])
def test_a_file_of_new_keys_that_comes_during_the_fit_is_left_to_a_later_stage(settings, source, at):
    datasets.ingest_source("mine", str(source), settings, Columns(id="key", keyed=True, x="embedding"))

    def do():
        write_shard(source, "part5.parquet", blobs(50, D, seed=5, first_id=5000))

    assert reindex(settings, spec(protocol={"queries": 50, "neighbours": 5}), Meanwhile(do=do, at=at))[0].rows == 850


def removed(path):
    path.unlink()


def changed(path):
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("do", [removed, changed])
def test_a_file_that_is_removed_or_changed_after_it_is_encoded_is_not_published(settings, mine, source, do):
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=4000))
    with pytest.raises(GateRejected, match=r"1 source file changed or removed since .*part2\.parquet"):
        reindex(settings, spec(), Meanwhile(do=partial(do, source / "part2.parquet"), at="evaluate"))
    assert table_of(settings).version().name == "v1"


def test_one_shard_is_encoded_once(settings, tmp_path):
    write_shard(tmp_path / "one", "a.parquet", blobs(300, D))
    datasets.ingest_source("one", str(tmp_path / "one"), settings, Columns(id="key", x="embedding", labels="tags"))
    executor = Counting()
    staged, _, version = reindex(settings, spec(dataset="one"), executor)
    assert (version, staged.encoded, staged.rows) == ("v1", 300, 300)
    assert executor.encoded == ["a.parquet"]
