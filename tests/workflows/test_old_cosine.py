"""Tables of hashkiln 0.2.0 compared by cosine: quantizers', with float32 correctives, and one of rows as they are."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.executors import InProcess
from infra.settings import Settings
from storage import models
from storage.features.rows import Columns
from tests.workflows.conftest import unpacked
from tests.workflows.make_warehouse_0_2 import ARCHIVE, PROTOCOL, QUANTIZED, ROOT, TABLES, write
from tests.workflows.tables.published_table import hashkiln, reindex, table_of
from workflows import datasets, opening
from workflows.checks import UsageError
from workflows.context import Context
from workflows.reindex.planning import forecast
from workflows.reindex.run import nothing_to_do
from workflows.spec import Spec
from workflows.tables.verify import verify

REMARK = "which does not scale rows to length one, as a model for cosine now does: --refit always fits a new one"
EACH = pytest.mark.parametrize("table", QUANTIZED)


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """Return settings of the warehouse, at the path that its tables refer to."""
    with unpacked(ARCHIVE, ROOT):
        monkeypatch.setenv("HASHKILN_HOME", str(ROOT / "home"))
        monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
        yield Settings()


def found(*args, code=0):
    actual, output = hashkiln(*args, "--json")
    assert actual == code, output
    return json.loads(output)


def spec(table, **changes):
    method, bits = TABLES[table]
    protocol = {"relevance": "neighbours", "neighbours": 5, "queries": 10}
    method = {"method": method, "bits": bits}
    return Spec.model_validate({"dataset": "mine", "method": method, "protocol": protocol, **changes})


def ingest_by(metric, settings):
    datasets.ingest_source("mine", str(ROOT / "source"), settings, Columns(), metric=metric)


def check_search(table, tmp_path):
    out, expected = tmp_path / "found.parquet", json.loads((ROOT / "expected.json").read_text())[table]["search"]
    found("search", table, "--queries", str(ROOT / "queries.npy"), "--k", "5", "--out", str(out))
    rows = pq.read_table(out).to_pydict()
    assert [rows[name] for name in ("query", "rank", "id")] == [expected[name] for name in ("query", "rank", "id")]
    assert rows["distance"] == pytest.approx(expected["distance"], rel=1e-6)


@EACH
def test_search_evaluate_verify_and_export_find_what_they_found(table, tmp_path):
    check_search(table, tmp_path)
    expected = json.loads((ROOT / "expected.json").read_text())[table]["metrics"]
    metrics = found("evaluate", table, *PROTOCOL[2:])["measured"]["metrics"]
    assert any(name.startswith("estimator.") for name in expected)
    assert metrics == {name: pytest.approx(value, rel=1e-9) for name, value in expected.items()}
    report = found("verify", table, "--deep")
    assert (report["problems"], report["rechecked"]) == ([], 2)
    found("export", table, "--to", "npy", "--out", str(tmp_path / "out"))
    correctives = np.load(tmp_path / "out" / "correctives.npy")
    assert (correctives.dtype, correctives.shape) == (np.float32, (60, 4 if "osq" in table else 3))


@EACH
def test_a_changed_shard_is_encoded_by_the_published_model_and_a_new_model_needs_another_code(settings, table):
    model, columns = table_of(settings, table).version().properties["model"], table_of(settings, table).correctives
    assert reindex(settings, spec(table)) == "v1"
    write("b.parquet", 100, 3, 1_700_000_100)
    assert reindex(settings, spec(table, gate={"max_loss": {"map": 1.0}})) == "v2"
    now = table_of(settings, table)
    assert (now.format, now.version().properties["model"], now.correctives) == (3, model, columns)
    assert now.version().properties["encoded"] == "30"
    assert verify(table, deep=True).problems == ()
    for refit in ("always", "drift"):  # also if nothing has drifted, before rows are encoded
        with pytest.raises(UsageError, match=f"table {table} has correctives in float32, as of hashkiln 0.2"):
            reindex(settings, spec(table, refit=refit))
    assert reindex(settings, spec(table, code="half")) == "v1"
    new = table_of(settings, "mine__half")
    assert (new.format, new.correctives[0]) == (4, "step_float16")
    assert new.version().properties["model"] != model


@EACH
def test_the_model_in_a_file_of_its_own_stays_the_same(settings, table, tmp_path):
    function = models.load_model(settings.warehouse_url, table_of(settings, table).version().properties["model"])
    models.save_file(str(tmp_path / "model.safetensors"), function)
    loaded = models.load_file(str(tmp_path / "model.safetensors"))
    x = np.load(ROOT / "queries.npy")
    np.testing.assert_array_equal(loaded.encode_rows(x), function.encode_rows(x))


def test_a_model_for_rows_as_they_are_stays_until_a_refit(settings, tmp_path):
    table, asked = "mine__itq8", ("reindex", "--dataset", "mine", "--method", "itq", "--bits", "8", *PROTOCOL)
    check_search(table, tmp_path)
    reason = f"reuses the model of v1, {REMARK}"
    assert found(*asked, "--dry-run")["reason"] == reason
    night = found(*asked)
    assert (night["unchanged"], night["verdict"]["notes"]) == (True, [reason])
    before = table_of(settings, table).version().properties["model"]
    assert reindex(settings, spec(table, code="other")) == "v1"  # no fit of 0.2.0 is reused
    assert table_of(settings, "mine__other").version().properties["model"] != before
    write("b.parquet", 100, 3, 1_700_000_100)
    assert reindex(settings, spec(table, gate={"max_loss": {"map": 1.0}})) == "v2"
    kept = table_of(settings, table).version().properties
    assert (kept["model"], kept["encoded"], models.metric_of(settings.warehouse_url, before)) == (before, "30", "")
    assert kept["fitted"] == reason
    assert reindex(settings, spec(table, refit="always", gate={"max_loss": {"map": 1.0}})) == "v3"
    new = table_of(settings, table).version().properties
    assert (new["encoded"], models.metric_of(settings.warehouse_url, new["model"])) == ("60", "cosine")
    assert verify(table, deep=True).problems == ()
    with pytest.raises(ValueError, match=r"queries: expected vectors other than zero, .* found zero in row 2"):
        opening.open(table).search(np.array([[1], [1], [0]]) * np.load(ROOT / "queries.npy"), k=1)
    ingest_by("euclidean", settings)
    for args in (asked, (*asked, "--dry-run")):  # before Prefect starts
        with pytest.raises(UsageError, match=r"is for the cosine distance, .* by the squared Euclidean distance: fit"):
            hashkiln(*args)
    with pytest.raises(UsageError, match="is for the cosine distance"):
        reindex(settings, spec(table))


def test_a_dataset_that_is_ingested_again_by_cosine_is_encoded_again(settings):
    ingest_by("euclidean", settings)
    plain = spec("mine__itq8", code="plain")
    assert reindex(settings, plain) == "v1"
    assert nothing_to_do(plain).verdict.notes == ()
    ingest_by("cosine", settings)
    assert nothing_to_do(plain) is None
    planned = forecast(Context.of(plain, settings, InProcess()))
    assert (planned.rows, planned.fit, planned.reason) == (60, False, f"reuses the model of v1, {REMARK}")
    assert reindex(settings, plain) == "v2"
    assert table_of(settings, "mine__plain").version().properties["encoded"] == "60"
