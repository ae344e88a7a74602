"""Training rows that are read once: the same batches as of the shards themselves, for any split over workers."""

import shutil
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from hashing.deep import batches as batches_module
from hashing.deep import sgd
from hashing.deep import stored as module
from hashing.deep.batches import batches
from hashing.deep.method import facts, held_out
from hashing.deep.stored import Rows, stored
from hashing.mapreduce import Data
from hashing.methods.dpsh import DPSH
from infra.executors import InProcess
from tests.conftest import blobs, cut

METHOD = DPSH(n_bits=8, epochs=2, batch_size=64)
ROWS = blobs(500)
PIXELS = ROWS._replace(x=np.clip(np.rint(20 * ROWS.x + 128), 0, 255).astype(np.float32))


@dataclass
class Worker:
    rank: int = 0
    world: int = 1
    threads: int = 1
    state: bytes = b""
    device = "cpu"

    def latest(self):
        return None

    def report(self, epochs, most, state):
        self.state = state


@dataclass
class Counted:
    """A shard that counts how often it is read."""

    batches: list
    times: int = 0

    def __iter__(self):
        self.times += 1
        yield from self.batches


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def rows_of(shards, method=METHOD, threads=1):
    return stored(shards, method.held_out, facts(Data(shards, InProcess()), method), Worker(threads=threads))


def epoch(rows, method=METHOD, number=1):
    return [batch._replace(x=rows.take(batch.x)) for batch in batches(rows, method, number)]


@pytest.mark.parametrize("source", [ROWS, PIXELS, ROWS._replace(y=None)], ids=["vectors", "pixels", "no labels"])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("window", [1, 4 * 32 * 100, 2**28])
def test_batches_are_those_of_the_shards(source, threads, window, monkeypatch):
    monkeypatch.setattr(batches_module, "WINDOW", window)
    method = METHOD if source.y is not None else replace(METHOD, validation=0.0)
    monkeypatch.setattr(DPSH, "supervised", source.y is not None)
    shards = [*cut(source, 4, 30), []]
    expected, found = epoch(Rows(shards), method), epoch(rows_of(shards, method, threads), method)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(*(np.zeros(0) if batch.y is None else batch.y for batch in (one, other)))


def test_shards_are_read_once_in_a_run_and_pixels_are_held_in_bytes():
    shards = [Counted(batches) for batches in cut(PIXELS, 4, 30)]
    known = facts(Data(shards, InProcess()), METHOD)
    assert known.dtype == "uint8"
    assert facts(Data(cut(ROWS, 2), InProcess()), METHOD).dtype == "float32"
    before = [shard.times for shard in shards]
    sgd.train(Worker(), replace(METHOD, epochs=3), shards, known, None, None, {})
    assert [shard.times - times for shard, times in zip(shards, before, strict=True)] == [1, 1, 1, 1]
    assert rows_of(shards).take(np.arange(3)).dtype == np.uint8


def test_files_have_no_name_once_they_are_open(folder):
    rows = rows_of(cut(ROWS, 3))
    assert not list(folder.glob("hashkiln-*"))
    assert len(epoch(rows)) == 7


def test_without_disk_for_the_rows_the_shards_are_read_in_each_epoch(folder, monkeypatch):
    shards = [Counted(batches) for batches in cut(ROWS, 2)]
    stored_once, streamed, known = Worker(), Worker(), facts(Data(shards, InProcess()), METHOD)
    sgd.train(stored_once, METHOD, shards, known, None, None, {})
    usage = shutil.disk_usage(folder)
    need = known.rows * (32 * 4 + 4 + 8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * need))
    before = shards[0].times
    sgd.train(streamed, METHOD, shards, known, None, None, {})
    assert shards[0].times - before == METHOD.epochs
    assert not list(folder.glob("hashkiln-*"))
    for a, b in zip(sgd.outcome(streamed.state)[0], sgd.outcome(stored_once.state)[0], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_error_of_a_shard_is_raised_unchanged_and_leaves_no_file(threads, folder):
    def bad():
        yield ROWS
        raise ValueError("a bad row")

    with pytest.raises(ValueError, match=r"^a bad row$"):
        stored([bad(), [ROWS]], METHOD.held_out, facts(Data([[ROWS]], InProcess()), METHOD), Worker(threads=threads))
    assert not list(folder.glob("hashkiln-*"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("readers")]


# --- several workers, in processes of their own ----------------------------------------------------------------------


def train(rank, world, folder, shards, method, known, judges, apart):
    """Train as one of several workers, and write down how often each shard was read."""
    tempfile.tempdir = str(folder / (f"machine {rank // 2}" if apart else "machine 0"))
    if apart:  # a machine sees its own folders only
        own = tempfile.tempdir
        is_dir = Path.is_dir
        module.Path.is_dir = lambda path: str(path).startswith(own) and is_dir(path)
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=world)
    counted, worker = [Counted(shard) for shard in shards], Worker(rank, world)
    try:
        sgd.train(worker, method, counted, known, None, judges, {})
        np.savez(folder / f"{rank}.npz", *sgd.outcome(worker.state)[0])
    except ValueError as error:
        (folder / f"{rank}.error").write_text(str(error))
    (folder / f"{rank}.times").write_text(" ".join(str(shard.times) for shard in counted))
    dist.destroy_process_group()


def trained(world, folder, shards, apart=False):
    for machine in range(2):
        (folder / f"machine {machine}").mkdir()
    known, judges = facts(Data([[PIXELS]], InProcess()), METHOD), held_out(Data([[PIXELS]], InProcess()), METHOD)
    mp.spawn(train, (world, folder, shards, METHOD, known, judges, apart), world)
    times = [[int(n) for n in (folder / f"{rank}.times").read_text().split()] for rank in range(world)]
    assert not list(folder.glob("machine */hashkiln-*"))
    return np.array(times)


def test_workers_share_the_reading_and_take_the_steps_of_one(tmp_path):
    shards = cut(PIXELS, 4, 60)
    times = trained(2, tmp_path, shards)
    assert times.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]]
    one = Worker()
    known, judges = facts(Data(shards, InProcess()), METHOD), held_out(Data(shards, InProcess()), METHOD)
    sgd.train(one, METHOD, shards, known, None, judges, {})
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            for a, b in zip(found.values(), sgd.outcome(one.state)[0], strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_each_machine_reads_the_shards_once(tmp_path):
    times = trained(4, tmp_path, cut(PIXELS, 4, 60), apart=True)
    assert times.tolist() == [[1, 0, 1, 0], [0, 1, 0, 1]] * 2


class Bad:
    def __iter__(self):
        yield from cut(PIXELS, 4, 60)[0]
        raise ValueError("a bad row")


@pytest.mark.slow
def test_an_error_of_one_worker_is_raised_by_all(tmp_path):
    trained(2, tmp_path, [*cut(PIXELS, 3, 60), Bad()])
    assert [(tmp_path / f"{rank}.error").read_text() for rank in range(2)] == ["a bad row"] * 2
