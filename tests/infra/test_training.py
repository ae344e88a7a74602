"""Training in process and on a real Ray cluster: the same steps for any number of workers and after any failure."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from hashing.mapreduce import Resources
from infra.executors import InProcess, Ray, connect
from infra.settings import Settings
from infra.training import workers_on_ray
from storage.files import filesystem
from tests.infra.recorded import data, digest, losses, recorded, steps

DRIVER = Path(__file__).with_name("recorded.py")


def when_there_are(n, log, deed, deadline=600):
    """In a thread: do it to the process that took step n, once it has."""

    def watch():
        end = time.monotonic() + deadline
        while len(taken := steps(log)) < n and time.monotonic() < end:
            time.sleep(0.02)
        deed(taken[n - 1][0])

    thread = Thread(target=watch)
    thread.start()
    return thread


def kill(pid):
    os.kill(pid, signal.SIGKILL)


class Deaf(Exception):
    pass


@dataclass(frozen=True)
class Noting(Ray):
    """Notes what a training worker has taken."""

    notes: str = ""

    def train(self, loop, name):
        return super().train(partial(noted, self.notes, loop), name)


def noted(notes, loop, worker):
    import ray

    taken = ray.get_runtime_context().get_assigned_resources()
    Path(notes).write_text(f"{worker.threads} {sorted(taken.items())}")
    loop(worker)


noted.__module__ = "__main__"  # so that Ray ships it


def test_one_worker_on_ray_gives_the_bits_of_training_in_process_although_observers_fail(
    ray_executor, tmp_path, caplog
):
    told, curves = [], []

    def progress(*event):
        told.append(event)
        raise Deaf("no terminal")

    def on_epoch(epochs):
        curves.append(epochs)
        raise Deaf("no server")

    observers = {"progress": progress, "on_epoch": on_epoch}
    declared = Resources(2, memory=1e8)
    executor = Noting(notes=str(tmp_path / "taken"), checkpoints=str(tmp_path / "runs"), trainer=declared, **observers)
    assert list(executor.map(abs, [-1, -2], "abs")) == [1, 2]
    on_ray = recorded(tmp_path / "ray", epochs=2).fit(data(executor))
    assert (tmp_path / "taken").read_text() == "2 [('CPU', 2.0), ('memory', 100000000.0)]"
    here = recorded(tmp_path / "here", epochs=2).fit(data(InProcess(cpus=2)))
    assert digest(on_ray) == digest(here)
    assert losses(tmp_path / "ray") == losses(tmp_path / "here")
    assert not list((tmp_path / "runs").iterdir())  # the checkpoints went with the run
    assert [len(epochs) for epochs in curves] == [1, 2]
    assert list(curves[-1]) == list(on_ray.epochs)
    assert [epoch | {"seconds": 0} for epoch in on_ray.epochs] == [epoch | {"seconds": 0} for epoch in here.epochs]
    said = [event for event in told if event[0].startswith("train, loss")]
    assert [event[1:] for event in said] == [(1, 2), (2, 2)]
    ours = [record for record in caplog.records if record.name == "infra.observability"]
    warned = [record.getMessage() for record in ours if record.levelname == "WARNING"]  # others may turn on INFO
    assert [line.partition(" failed, the run continues: ")[2] for line in warned] == [
        "Deaf: no terminal", "Deaf: no server"
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_two_workers_take_the_steps_of_one(network, ray_executor, tmp_path):
    pictures, settings = network == "cnn", {"network": network, "epochs": 5, "regularizers": "decov:0.1+so:0.001"}
    recorded(tmp_path / "two", **settings).fit(data(replace(ray_executor, trainers=2), pictures))
    recorded(tmp_path / "one", **settings).fit(data(InProcess(cpus=1), pictures))
    one, other = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len({pid for pid, *_ in steps(tmp_path / "two")}) == 2
    assert list(one) == sorted(other)
    assert len(one) == 50
    np.testing.assert_allclose([other[at] for at in one], list(one.values()), atol=1e-4)
    assert one[max(one)] < 0.99 * one[0]  # and they are steps that go somewhere


@pytest.mark.slow
def test_a_killed_worker_is_restarted_and_the_run_continues(ray_executor, tmp_path):
    executor = replace(ray_executor, checkpoints=str(tmp_path / "runs"))
    killer = when_there_are(75, tmp_path / "log", kill)
    function = recorded(tmp_path / "log", epochs=20).fit(data(executor))
    killer.join()
    undisturbed = recorded(tmp_path / "here", epochs=20).fit(data(InProcess(cpus=2)))
    taken = steps(tmp_path / "log")
    _, second = list(dict.fromkeys(pid for pid, *_ in taken))
    assert next(at for pid, at, _ in taken if pid == second) > 0  # not from the beginning
    assert losses(tmp_path / "log") == losses(tmp_path / "here")
    assert digest(function) == digest(undisturbed)


@pytest.mark.parametrize("kind", ["here", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_restarted_driver_continues_the_run(kind, tmp_path):
    log, runs = tmp_path / "log", tmp_path / "runs"
    command = [sys.executable, str(DRIVER), kind, str(log), str(runs), "20"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE)
    watcher = when_there_are(75, log, lambda _: kill(driver.pid))
    driver.communicate()
    watcher.join()
    assert driver.returncode == -signal.SIGKILL
    before = len(steps(log))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert steps(log)[before][1] > 0  # not from the beginning
    assert not list(runs.iterdir())
    undisturbed = recorded(tmp_path / "here", epochs=20).fit(data(InProcess(cpus=1)))
    found, expected = losses(log), losses(tmp_path / "here")
    assert sorted(found) == list(expected)
    if kind == "here":
        assert again.stdout.strip() == digest(undisturbed)
        assert found == expected
    np.testing.assert_allclose([found[at] for at in expected], list(expected.values()), atol=1e-3)


def main(executor):
    """Return the training workers, and the resources of each, that fit on a Ray with 4 CPUs and 2 GPUs."""
    found = [replace(executor, trainers=trainers).training_workers() for trainers in (None, 1, 2)]
    for requested, declared in [
        (None, None), (None, Resources(1, 1)), (1, Resources(3, 1)), (None, Resources(1, 0.5)), (2, Resources(1)),
        (3, None), (3, Resources(1, 1)), (2, Resources(1, 0.5)), (None, Resources(1, 2)), (2, Resources(3)),
    ]:  # fmt: skip
        try:
            count, taken = workers_on_ray(requested, declared)
            found.append(f"{count} with {taken}")
        except ValueError as error:
            found.append(str(error))
    return found


def test_more_workers_than_the_cluster_has_room_for_are_refused(ray_executor):
    assert [replace(ray_executor, trainers=asked).training_workers() for asked in (None, 1, 2)] == [1, 1, 2]
    assert [workers_on_ray(asked, None)[1] for asked in (1, 2)] == [Resources(2), Resources(1)]
    with pytest.raises(ValueError, match="expected HASHKILN_TRAINERS of at most 2, the CPUs of the cluster, found 3"):
        replace(ray_executor, trainers=3).training_workers()
    assert InProcess().training_workers() == 1


def test_workers_take_the_gpus_of_the_cluster_or_what_is_declared(fake_gpus):
    assert fake_gpus.run("tests.infra.test_training") == [
        2, 1, 2,
        "2 with 2 CPUs, 1 GPUs",
        "2 with 1 CPUs, 1 GPUs",
        "1 with 3 CPUs, 1 GPUs",
        "1 with 1 CPUs, 0.5 GPUs",
        "2 with 1 CPUs, 0 GPUs",
        "expected HASHKILN_TRAINERS of at most 2, the GPUs of the cluster, found 3",
        "expected HASHKILN_TRAINERS of at most 2, the places in the cluster with 1 CPUs, 1 GPUs, found 3",
        "expected HASHKILN_FIT_GPUS=1 for 2 training workers, found 0.5",
        "expected HASHKILN_FIT_GPUS of at most 1, for one worker, found 2",
        "expected HASHKILN_TRAINERS of at most 1, the places in the cluster with 3 CPUs, 0 GPUs, found 2",
    ]  # fmt: skip


def threads_of(worker):
    worker.report([], 1, f"{worker.device} {worker.threads}".encode())


def test_training_here_takes_the_threads_that_are_declared(monkeypatch):
    assert InProcess(cpus=2).train(threads_of, "here") == b"cpu 2"
    assert InProcess(cpus=2, trainer=Resources(1)).train(threads_of, "here") == b"cpu 1"
    monkeypatch.setenv("HASHKILN_FIT_CPUS", "1")
    assert connect(Settings()).trainer == connect(Settings(executor="inprocess")).trainer == Resources(1)


@pytest.mark.slow
def test_an_error_of_the_user_is_raised_unchanged_and_not_retried(ray_executor, tmp_path):
    executor = replace(ray_executor, checkpoints=str(tmp_path / "runs"))
    with pytest.raises(
        ValueError, match=r"^expected a finite loss, found nan in steps 1 to 10 of epoch 1: use a smaller lr$"
    ):
        recorded(tmp_path / "log", lr=1e30).fit(data(executor))
    assert len({pid for pid, *_ in steps(tmp_path / "log")}) == 1
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_repeated_failures_are_reported_in_one_line(ray_executor):
    with pytest.raises(RuntimeError, match=r"^training failed after 3 restarts: .*no such thing"):
        ray_executor.train(fails, "fails")


def fails(worker):
    raise OSError("no such thing")


fails.__module__ = "__main__"  # so that Ray ships it


@pytest.mark.slow
@pytest.mark.parametrize("store", ["s3", "gcs"])
def test_checkpoints_in_a_store_are_written_read_and_removed(store, request, tmp_path):
    runs = f"{request.getfixturevalue(store)}/{tmp_path.name}/runs"
    command = [sys.executable, str(DRIVER), "ray", str(tmp_path / "log"), runs, "8"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE)
    watcher = when_there_are(50, tmp_path / "log", lambda _: kill(driver.pid))
    driver.communicate()
    watcher.join()
    assert [file for file in filesystem.inventory(runs) if file.url.endswith("state.pt")]
    before = len(steps(tmp_path / "log"))
    subprocess.run(command, check=True, capture_output=True)
    assert steps(tmp_path / "log")[before][1] > 0
    assert filesystem.inventory(runs) == []
