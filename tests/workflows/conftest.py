"""The stages without a flow: a dataset of four shards, its specification, and one re-indexing run."""

import contextlib
import fcntl
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashing.bits import pack
from hashing.mapreduce import Batch
from infra.executors import InProcess
from infra.settings import Settings
from storage import models
from storage.features.rows import Columns
from tests.conftest import blobs
from tests.loopback import receiving
from workflows import datasets
from workflows.cli import main
from workflows.context import Context, open_table
from workflows.evaluation.judge import judge_of
from workflows.reindex import gate, pipeline, publishing
from workflows.spec import Spec

D, CLASSES = 32, ["ant", "bee", "cat", "dog", "elk", "fox"]


def write_shard(folder, name, batch, *more):
    """Write a Parquet shard as a user would: own column names, labels by name. Each row also has the labels `more`."""
    folder.mkdir(parents=True, exist_ok=True)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.x.ravel()), D)
    labels = [[CLASSES[c], *more] for c in batch.y.argmax(1)]
    pq.write_table(pa.table({"key": batch.ids, "embedding": vectors, "tags": labels}), folder / name)


@contextlib.contextmanager
def unpacked(archive, folder):
    """Unpack an archive into a folder, for one process at a time, and remove the folder in the end."""
    with Path(f"{folder}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
        yield
        shutil.rmtree(folder)


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Run the command line in this process, which saves the imports of another one; (exit, stdout, stderr)."""

    def run(*args, **environment):
        monkeypatch.setattr(sys, "argv", ["hashkiln", *args])
        with mock.patch.dict(os.environ, environment), pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def messages():
    """Receive webhooks on loopback; the messages, with the address as `.url`."""

    class Messages(list):
        url = ""

    received = Messages()
    with receiving(lambda request, body: received.append(json.loads(body)), 204) as url:
        received.url = f"{url}/token-in-the-url"
        yield received


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HASHKILN_EXECUTOR", "inprocess")
    return Settings()


@pytest.fixture
def source(tmp_path):
    """Write four shards of 200 rows, which the dataset `mine` uses in place."""
    for i in range(4):
        write_shard(tmp_path / "source", f"part{i}.parquet", blobs(200, D, seed=i, first_id=1000 * i))
    return tmp_path / "source"


@pytest.fixture
def mine(settings, source):
    columns = Columns(id="key", x="embedding", labels="tags")
    return datasets.ingest_source("mine", str(source), settings, columns)


SPEC = {"dataset": "mine", "method": {"method": "itq", "bits": 16}, "protocol": {"queries": 50}}


def spec(**changes):
    return Spec.model_validate({**SPEC, **changes})


def reindex(settings, of, executor=None):
    """Run the stages of the flow; return what was staged, its report, and the published version."""
    context = pipeline.open_run(of, settings, executor or InProcess())
    staged = pipeline.fit_and_stage(context)
    if staged.unchanged:
        return staged, None, staged.base
    report = gate.evaluate_staged(context, staged)
    verdict = gate.gate(context, staged, report)
    return staged, report, publishing.publish(context, staged, report, verdict, "page")


def table_of(settings, name="mine__itq16"):
    return open_table(settings, name)


def published_rows(settings, name="mine__itq16"):
    """Return the published rows as one batch."""
    table = table_of(settings, name)
    batches = [batch for shard in table.shards(table.version().snapshot_id) for batch in shard]
    rows = Batch(*(None if field[0] is None else np.concatenate(field) for field in zip(*batches, strict=True)))
    assert len(np.unique(rows.ids)) == len(rows.ids)
    return rows


def published_codes(settings, name="mine__itq16"):
    """Return id -> code of the published rows."""
    rows = published_rows(settings, name)
    return dict(zip(rows.ids.tolist(), rows.x.tolist(), strict=True))


def encoded_from_source(settings, dataset, name="mine__itq16"):
    """Return id -> code, computed from the source by the published model."""
    function = models.load_model(settings.warehouse_url, table_of(settings, name).version().properties["model"])
    batches = [batch for shard in dataset.shards("base") for batch in shard]
    return {
        i: code
        for batch in batches
        for i, code in zip(batch.ids.tolist(), pack(function.encode(batch.x)).tolist(), strict=True)
    }


def own_rows_of_most_queries(settings):
    """Return [0] if each query has its own row among the published rows, which is then not ranked, else []."""
    table = table_of(settings)
    ids = published_codes(settings).keys()
    judge = judge_of(Context.of(spec(), settings, InProcess()), table.vocabulary)
    return [] if any(i not in ids for i in judge.queries.ids.tolist()) else [0]
