"""Training rows that are read once: the same batches as of the shards themselves, for any split over workers."""

import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from hashing.deep import batches as batches_module
from hashing.deep import sgd
from hashing.deep import stored as module
from hashing.deep.batches import batches, shard_order
from hashing.deep.method import facts, held_out
from hashing.deep.stored import TrainingRows, stored
from hashing.mapreduce import Data
from hashing.methods.bihalf import BiHalf
from hashing.methods.cibhash import CIBHash
from hashing.methods.dpsh import DPSH
from infra.executors import InProcess
from tests.conftest import blobs, cut


@dataclass(frozen=True)
class Normed(DPSH):
    """Its loss is of pairs, and its normalization of a batch: both need the outputs of all workers."""

    hash_layer = "normed"


METHOD = DPSH(n_bits=8, epochs=2, batch_size=64)
NORMED = Normed(n_bits=8, epochs=2, batch_size=64)
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


@contextmanager
def rows_of(shards, method=METHOD, threads=1):
    known, order = facts(Data(shards, InProcess()), method), shard_order(len(shards), method, 0)
    with stored(shards, order, method.held_out, known, Worker(threads=threads)) as rows:
        yield rows


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
    expected = epoch(TrainingRows(shards), method)
    with rows_of(shards, method, threads) as rows:
        found = epoch(rows, method)
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
    with rows_of(shards) as rows:
        assert next(batches(rows, METHOD, 0)).x.dtype == np.int64
        assert rows.take(np.arange(3)).dtype == np.uint8


def test_files_have_no_name_once_they_are_open(folder):
    with rows_of(cut(ROWS, 3)) as rows:
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
    class Fails:
        def __iter__(self):
            yield ROWS.take(slice(0, 50))
            raise ValueError("a bad row")

    known = facts(Data([[ROWS]], InProcess()), METHOD)
    with pytest.raises(ValueError, match=r"^a bad row$"):
        sgd.train(Worker(threads=threads), METHOD, [Fails(), *cut(ROWS, 3)], known, None, None, {})
    assert not list(folder.glob("hashkiln-*"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("readers")]


class Waits:
    """A shard that waits until a step has been taken, or for a minute."""

    def __init__(self, batches, taken):
        self.batches, self.taken = batches, taken

    def __iter__(self):
        assert self.taken.wait(300)
        yield from self.batches


@pytest.mark.parametrize("threads", [1, 2])
def test_steps_are_taken_while_later_shards_are_read(threads, monkeypatch):
    monkeypatch.setattr(batches_module, "WINDOW", 1)
    whole, beside, taken = Worker(threads=1), Worker(threads=threads), Event()
    shards, known = cut(PIXELS, 4), facts(Data([[PIXELS]], InProcess()), METHOD)
    sgd.train(whole, METHOD, shards, known, None, None, {})

    @dataclass(frozen=True)
    class Noted(DPSH):
        def loss(self, out):
            taken.set()
            return super().loss(out)

    last = shard_order(4, METHOD, 0)[-1]
    shards = [Waits(shard, taken) if i == last else shard for i, shard in enumerate(shards)]
    sgd.train(beside, Noted(**vars(METHOD)), shards, known, None, None, {})
    for a, b in zip(sgd.outcome(beside.state)[0], sgd.outcome(whole.state)[0], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_run_that_fails_stops_its_readers(monkeypatch):
    monkeypatch.setattr(batches_module, "WINDOW", 1)

    class Endless:
        def __iter__(self):
            while True:
                time.sleep(0.01)
                yield ROWS.take(slice(0, 1))

    @dataclass(frozen=True)
    class Failing(DPSH):
        def loss(self, out):
            raise ValueError("a bad loss")

    known = facts(Data([[ROWS]], InProcess()), METHOD)._replace(rows=10**6)
    shards = [ROWS.take(slice(0, 300))], Endless()
    shards = [shards[i] for i in shard_order(2, METHOD, 0)]  # the endless one is the second
    with pytest.raises(ValueError, match="a bad loss"):
        sgd.train(Worker(), Failing(**vars(METHOD)), shards, known, None, None, {})
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("readers")]


def test_rows_that_have_come_since_they_were_counted_are_refused():
    known = facts(Data([[ROWS]], InProcess()), METHOD)
    with pytest.raises(
        ValueError, match=r"^expected 4\d\d training rows, as counted before, found more: the source changed"
    ):
        sgd.train(Worker(), METHOD, [[ROWS], [ROWS]], known, None, None, {})


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


def trained(world, folder, shards, method=METHOD, apart=False):
    for machine in range(2):
        (folder / f"machine {machine}").mkdir()
    known, judges = facts(Data([[PIXELS]], InProcess()), method), held_out(Data([[PIXELS]], InProcess()), method)
    mp.spawn(train, (world, folder, shards, method, known, judges, apart), world)
    times = [[int(n) for n in (folder / f"{rank}.times").read_text().split()] for rank in range(world)]
    assert not list(folder.glob("machine */hashkiln-*"))
    return np.array(times)


def test_workers_share_the_reading_and_take_the_steps_of_one(tmp_path):
    shards = cut(PIXELS, 4, 60)
    times = trained(2, tmp_path, shards, NORMED)
    assert times.sum(0).tolist() == [1, 1, 1, 1]
    assert times.sum(1).tolist() == [2, 2]
    one = Worker()
    known, judges = facts(Data(shards, InProcess()), NORMED), held_out(Data(shards, InProcess()), NORMED)
    sgd.train(one, NORMED, shards, known, None, judges, {})
    for rank in range(2):
        with np.load(tmp_path / f"{rank}.npz") as found:
            for a, b in zip(found.values(), sgd.outcome(one.state)[0], strict=True):
                np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("method", [BiHalf(8, epochs=2), CIBHash(8, epochs=2)])
def test_halves_and_copies_of_a_batch_do_not_depend_on_the_number_of_workers(method, world, tmp_path):
    shards, one = cut(PIXELS, 4, 60), Worker()
    trained(world, tmp_path, shards, method)
    sgd.train(one, method, shards, facts(Data(shards, InProcess()), method), None, None, {})
    with np.load(tmp_path / "0.npz") as found:
        for a, b in zip(found.values(), sgd.outcome(one.state)[0], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.slow
def test_each_machine_reads_the_shards_once(tmp_path):
    times = trained(4, tmp_path, cut(PIXELS, 4, 60), apart=True)
    assert times[:2].tolist() == times[2:].tolist()
    assert times[:2].sum(0).tolist() == [1, 1, 1, 1]


class Bad:
    def __iter__(self):
        yield from cut(PIXELS, 4, 60)[0]
        raise ValueError("a bad row")


@pytest.mark.slow
def test_an_error_of_one_worker_is_raised_by_all(tmp_path):
    trained(2, tmp_path, [*cut(PIXELS, 3, 60), Bad()])
    assert [(tmp_path / f"{rank}.error").read_text() for rank in range(2)] == ["a bad row"] * 2
