"""What a deep fit stores beside its model, how a run shows progress, and which rows it reads."""

import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hashing.methods import catalogue
from hashing.source import source as source_of
from infra.executors import InProcess
from storage import models, queries
from storage.features.rows import Columns
from storage.tables.part_index import indexed_parts
from tests.conftest import blobs
from tests.workflows.conftest import D, spec, write_shard
from workflows import datasets
from workflows.cli import app
from workflows.context import Context, open_table
from workflows.reindex import fitting

SETTINGS = {"epochs": 3, "batch_size": 128, "lr": 0.01}
DEEP = {"method": "dpsh", "bits": 16, "parameters": SETTINGS}


@dataclass(frozen=True)
class Watching(InProcess):
    """Records the arguments of each training loop."""

    given: list = field(default_factory=list)

    def train(self, loop, name):
        self.given.append(loop.keywords)
        return super().train(loop, name)


def test_epochs_are_stored_beside_the_model_and_not_in_its_digest(settings, mine):
    told = []
    model = fitting.fit(Context.of(spec(method=DEEP), settings, InProcess(on_epoch=told.append)))
    epochs = models.training_epochs(settings.warehouse_url, model.digest)
    assert [len(so_far) for so_far in told] == [1, 2, 3]
    assert list(told[-1]) == epochs
    assert [epoch["epoch"] for epoch in epochs] == [1, 2, 3]
    assert epochs[0]["loss"] > epochs[2]["loss"] > 0
    assert 0.01 > epochs[0]["lr"] > epochs[1]["lr"] > epochs[2]["lr"] > 0
    assert all(epoch["rows"] == 640 and epoch["seconds"] > 0 and 0 < epoch["score"] <= 1 for epoch in epochs)
    assert (
        models.save_model(settings.warehouse_url, models.load_model(settings.warehouse_url, model.digest))
        == model.digest
    )
    assert models.training_epochs(settings.warehouse_url, model.digest) == epochs
    again = fitting.fit(Context.of(spec(method=DEEP, code="other"), settings, InProcess()))
    assert (again.digest, again.seconds) == (model.digest, 0)
    assert (
        models.training_epochs(settings.warehouse_url, fitting.fit(Context.of(spec(), settings, InProcess())).digest)
        == []
    )


def test_model_selection_uses_training_rows_and_never_queries(settings, mine):
    watching = Watching()
    fitting.fit(Context.of(spec(method=DEEP), settings, watching))
    (given,) = watching.given
    asked = queries.load_queries(settings.warehouse_url, "mine").ids
    seen = np.concatenate([batch.ids for shard in given["shards"] for batch in shard])
    judged_by = given["held_out"].ids
    assert len(asked) == 50
    assert len(judged_by) > 10
    assert not np.isin(asked, seen).any()
    assert len(seen) == 750
    assert np.isin(judged_by, seen).all()
    assert given["method"].held_out(judged_by).all()


def artifacts(key):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey

    wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=wanted)
    return [(artifact.id, json.loads(artifact.data)) for artifact in found]


def test_a_method_of_another_package_is_fitted_again_when_its_code_changes(settings, mine, tmp_path, monkeypatch):
    theirs = tmp_path / "theirs.py"
    theirs.write_text("from hashing.methods.pcah import PCAH\n\nclass Theirs(PCAH): ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(catalogue(), "theirs", importlib.import_module("theirs").Theirs)
    asked = spec(method={"method": "theirs", "bits": 8})
    seconds = [fitting.fit(Context.of(asked, settings, InProcess())).seconds for _ in range(2)]
    theirs.write_text(theirs.read_text() + "# another version\n")
    source_of.cache_clear()  # as in another process
    seconds.append(fitting.fit(Context.of(asked, settings, InProcess())).seconds)
    assert [s > 0 for s in seconds] == [True, False, True]


def test_the_table_of_epochs_is_one_artifact_that_is_updated(with_prefect_server):
    from prefect import flow

    from workflows.reindex.flow import TrainingTable

    @flow
    def training():
        shown = TrainingTable("some__table")
        shown([])
        assert artifacts("some--table-training") == []
        shown([{"epoch": 1, "loss": 0.5}])
        ((first, rows),) = artifacts("some--table-training")
        assert rows == [{"epoch": 1, "loss": 0.5}]
        shown([{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}])
        assert artifacts("some--table-training") == [(first, [*rows, {"epoch": 2, "loss": 0.25}])]

    training()


@pytest.mark.parametrize("executor", ["inprocess", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_run_shows_epochs_as_they_end(executor, settings, mine, with_prefect_server, monkeypatch, request):
    from workflows.reindex import flow

    class Watched(flow.TrainingTable):
        def __call__(self, epochs):
            told.append(len(epochs))
            super().__call__(epochs)

    told = []
    monkeypatch.setattr(flow, "TrainingTable", Watched)
    if executor == "ray":
        request.getfixturevalue("ray_executor")
        monkeypatch.setenv("HASHKILN_EXECUTOR", "ray")
    outcome = flow.reindex(spec(method=DEEP, code=executor, index=True))
    assert told == [1, 2, 3, 3]
    table = open_table(settings, outcome.table)
    assert len(indexed_parts(table.folder)) == len(table.parts(table.version().snapshot_id))
    digest = table.version().properties["model"]
    epochs = models.training_epochs(settings.warehouse_url, digest)
    ((_, rows),) = artifacts(f"mine--{executor}-training")
    assert rows == epochs
    kept = max(epochs, key=lambda epoch: epoch["score"])["epoch"]
    assert f"selected epoch {kept}, the best on held-out rows" in Path(outcome.report).read_text()
    outcome = flow.reindex(spec(method=DEEP, code=f"{executor}-again"))  # with the model that is there
    assert told == [1, 2, 3, 3, 3]
    ((_, rows),) = artifacts(f"mine--{executor}-again-training")
    assert rows == epochs
    seconds = sum(epoch["seconds"] for epoch in epochs)
    assert f"3 epochs of 640 rows in {seconds:.1f} s" in Path(outcome.report).read_text()


def hashkiln(*args):
    result = CliRunner().invoke(app, [*args], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_fit_prints_the_result_of_the_training(settings, source, tmp_path):
    write_shard(tmp_path / "asked", "queries.parquet", blobs(50, D, seed=9, first_id=9000))
    columns = Columns(id="key", x="embedding", labels="tags")
    datasets.ingest_source("mine", str(source), settings, columns, query=str(tmp_path / "asked"))
    options = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    said = hashkiln("fit", "--dataset", "mine", "--method", "dpsh", "--bits", "16", *options)
    assert "3 epochs of 640 rows in" in " ".join(said.replace("│", " ").split())
    found = json.loads(hashkiln("fit", "--dataset", "mine", "--method", "dpsh", "--bits", "16", *options, "--json"))
    assert found["training"] == models.training_epochs(settings.warehouse_url, found["model"])
    assert len(found["training"]) == 3


def test_a_method_gets_tags_only_if_their_weight_is_positive(settings, mine):
    thc = {"method": "thc", "bits": 8, "parameters": {"epochs": 1, "n_anchors": 50, "tags": 2.0}}
    plain = {**thc, "parameters": {**thc["parameters"], "tags": 0.0}}
    fits = [fitting.fit(Context.of(spec(method=method), settings, InProcess())).digest for method in (thc, plain)]
    assert fits[0] != fits[1]
