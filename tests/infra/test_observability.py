"""Observers never stop work: their first error is logged, and the work ends as it would without them."""

import logging

import numpy as np
import pytest

from infra.executors import InProcess
from infra.observability import Observer, observed
from infra.settings import Settings
from storage.features.rows import Columns
from tests.conftest import free_ports
from tests.infra.recorded import data, digest, recorded
from workflows.datasets import ingest_source
from workflows.reindex.flow import TrainingTable


class Deaf(Exception):
    pass


def deaf(*_):
    raise Deaf("the line\nis dead")


def warnings(caplog):
    records = [record for record in caplog.records if record.name == "infra.observability"]
    return [record.getMessage() for record in records if record.levelno >= logging.WARNING]


def test_the_first_error_is_logged_in_one_line_and_later_calls_are_made(caplog):
    heard = []

    def observer(value):
        heard.append(value)
        if value < 3:
            raise Deaf("the line\nis dead")

    tolerant = observed(observer)
    assert observed(tolerant) is tolerant
    for value in range(5):
        tolerant(value)
    assert heard == list(range(5))
    assert [line.partition(" failed")[2] for line in warnings(caplog)] == [
        ", the run continues: Deaf: the line is dead"
    ]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_an_interrupt_is_not_caught_by_an_observer():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Observer(interrupted)()


def test_work_continues_if_observers_fail(tmp_path, caplog):
    executor = InProcess(cpus=2, checkpoints=str(tmp_path / "runs"), progress=deaf, on_epoch=deaf)
    assert list(executor.map(abs, [-1, -2], "abs")) == [1, 2]
    function = recorded(tmp_path / "log", epochs=2).fit(data(executor))
    undisturbed = recorded(tmp_path / "undisturbed", epochs=2).fit(data(InProcess(cpus=2)))
    assert digest(function) == digest(undisturbed)
    assert len(function.epochs) == 2
    assert warnings(caplog) == ["observer deaf failed, the run continues: Deaf: the line is dead"] * 2  # one of each


def test_the_checkpoint_is_saved_before_observers_are_called(tmp_path):
    saved = []
    executor = InProcess(
        checkpoints=str(tmp_path), cpus=1, on_epoch=lambda epochs: saved.append(len(list(tmp_path.glob("*/state.pt"))))
    )
    recorded(tmp_path / "log", epochs=2).fit(data(executor))
    assert saved == [1, 1]


@pytest.mark.filterwarnings("ignore:Artifact creation outside of a flow")
def test_a_prefect_server_that_does_not_answer_stops_no_training(tmp_path, caplog):
    from prefect.settings import PREFECT_API_URL, temporary_settings

    (port,) = free_ports(1)
    with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{port}/api"}):
        executor = InProcess(cpus=1, on_epoch=TrainingTable("mine__dpsh16"))
        function = recorded(tmp_path / "log", epochs=2).fit(data(executor))
    assert len(function.epochs) == 2
    (line,) = warnings(caplog)
    assert line.startswith("observer TrainingTable failed, the run continues: ConnectError: ")


def test_a_dataset_is_ingested_although_its_observer_fails(tmp_path, caplog):
    rows = np.zeros(10, [("d", "<i4"), ("x", "<f4", 4)])
    rows["d"] = 4
    rows.tofile(tmp_path / "mine.fvecs")
    dataset = ingest_source(
        "mine", str(tmp_path / "mine.fvecs"), Settings(home=tmp_path / "home"), Columns(), None, deaf
    )
    assert dataset.dim == 4
    assert warnings(caplog) == ["observer deaf failed, the run continues: Deaf: the line is dead"]
