"""A published table of a small dataset, `mine__code`: four files of 200 rows.

Tests take these fixtures by name: in a conftest they would replace those of tests/workflows.
"""

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from infra.executors import InProcess
from infra.settings import Settings
from storage.features.rows import Columns
from tests.conftest import blobs
from workflows import datasets
from workflows.cli import app
from workflows.context import Context, open_table
from workflows.reindex import fitting, gate, publishing, staging
from workflows.spec import Spec

D, TABLE, DAY = 16, "mine__code", 86_400
NAMES = [f"{i}.parquet" for i in range(4)]


def embedded(folder, monkeypatch):
    """Return settings with a home of their own."""
    monkeypatch.setenv("HASHKILN_HOME", str(folder / "home"))
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    return Settings()


@pytest.fixture
def settings(tmp_path, monkeypatch):
    return embedded(tmp_path, monkeypatch)


@pytest.fixture
def source(settings, tmp_path):
    return published(settings, tmp_path / "source")


def published(settings, folder):
    """Write four files, with ids from 1000 i on, and publish them as v1; return their folder."""
    for i, name in enumerate(NAMES):
        write(folder, name, blobs(200, D, seed=i, first_id=1000 * i))
    datasets.ingest_source("mine", str(folder), settings, Columns(labels="labels"))
    assert reindex(settings) == "v1"
    return folder


def write(folder, name, batch):
    folder.mkdir(parents=True, exist_ok=True)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.x.ravel()), D)
    labels = [[int(c)] for c in batch.y.argmax(1)]
    pq.write_table(pa.table({"id": batch.ids, "vector": vectors, "labels": labels}), folder / name)


def spec(bits=16, **changes):
    method = {"method": "lsh", "bits": bits}
    return Spec.model_validate(
        {"dataset": "mine", "method": method, "code": "code", "protocol": {"queries": 30}, **changes}
    )


def reindex(settings, of=None):
    of = of or spec()
    staged = staging.stage(Context.of(of, settings, InProcess()), fitting.fit(Context.of(of, settings, InProcess())))
    if staged.unchanged:
        return staged.base
    report = gate.evaluate_staged(Context.of(of, settings, InProcess()), staged)
    verdict = gate.gate(Context.of(of, settings, InProcess()), staged, report)
    return publishing.publish(Context.of(of, settings, InProcess()), staged, report, verdict, "page")


def table_of(settings, name=TABLE):
    return open_table(settings, name)


def rows_of(settings, version="main", name=TABLE):
    """Return id -> code."""
    table = table_of(settings, name)
    found = [batch for shard in table.shards(table.version(version).snapshot_id) for batch in shard]
    return {i: code for batch in found for i, code in zip(batch.ids.tolist(), batch.x.tolist(), strict=True)}


def part_of(settings, shard, version="main"):
    table = table_of(settings)
    return table.parts(table.version(version).snapshot_id)[shard]


def hashkiln(*args):
    """Run a command; return exit code and output."""
    result = CliRunner().invoke(app, [*args], catch_exceptions=False)
    return result.exit_code, result.stdout


def in_days(days):
    return lambda: time.time() + days * DAY
