"""The batches of an epoch, in an order keyed by the seed, and their transfer to a device."""

from collections.abc import Callable, Generator, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..mapreduce import Array, Batch, Worker, concatenated
from ..statistics import keyed_hash
from .contract import Trainable
from .stored import TrainingRows

WINDOW = 2**28  # bytes of rows shuffled together
AHEAD = 3  # batches prepared while a step is taken


class Placed(NamedTuple):
    """A batch of n rows of all workers, on a worker's device."""

    ids: Array  # (n,) int64
    x: Tensor  # (n / world, d) uint8 or float32, this worker's rows
    y: Tensor  # (n, c) float32
    targets: Tensor | None  # (n / world, t) float32
    labels: Array  # (n, c) float32, y in host memory


def batches(rows: TrainingRows, method: Trainable, epoch: int) -> Iterator[Batch]:
    """Yield the batches of an epoch: shards in keyed order, and rows in keyed order within windows of WINDOW bytes.

    If all rows fit into one window, the batches do not depend on the division into shards. The last batch is skipped
    if it is incomplete, unless it holds all rows. The x of a batch are the arguments of `rows.take`.
    """
    seed = _seed(method, epoch)
    window: list[Batch] = []
    seen = 0
    for shard in shard_order(len(rows.shards), method, epoch):
        for batch in rows.shards[shard]:
            trained = ~method.held_out(batch.ids)
            if trained.any():
                window.append(batch.take(trained))
                seen += len(window[-1].ids)
            if sum(len(part.ids) * rows.row_bytes or part.x.nbytes for part in window) >= WINDOW:
                window = [(yield from _shuffled(window, seed, method.batch_size))]
    if seen:
        rest = yield from _shuffled(window, seed, method.batch_size)
        if len(rest.ids) == seen:
            yield rest


def shard_order(n_shards: int, method: Trainable, epoch: int) -> Array:
    """Return the positions of the shards in the order of an epoch."""
    return np.argsort(keyed_hash(np.arange(n_shards), _seed(method, epoch)), kind="stable")


def _seed(method: Trainable, epoch: int) -> int:
    return int(keyed_hash(np.array([epoch]), method.seed)[0])


def _shuffled(window: list[Batch], seed: int, size: int) -> Generator[Batch, None, Batch]:
    """Yield whole batches in keyed order, and return the remaining rows. Empties the list, to save memory."""
    rows = concatenated(window)
    window.clear()
    order = np.argsort(keyed_hash(rows.ids, seed), kind="stable")
    whole = len(order) // size * size
    for start in range(0, whole, size):
        yield rows.take(order[start : start + size])
    return rows.take(order[whole:])


def current_device(worker: Worker) -> torch.device:
    """Return the worker's device with its index, because other threads have their own current GPU."""
    return torch.device("cpu") if worker.device == "cpu" else torch.device("cuda", torch.cuda.current_device())


def on_device(
    batch: Batch,
    worker: Worker,
    device: torch.device,
    rows: TrainingRows,
    dtype: str,
    targets: Callable[[Batch], Array | None],
) -> Placed:
    """Copy this worker's rows of a batch with their targets, and the labels of all rows, to a device.

    The last rows of a batch that the workers cannot share evenly are dropped. Raises ValueError if there are fewer rows
    than workers.
    """
    size = len(batch.ids) // worker.world
    if not size:
        raise ValueError(f"expected at least {worker.world} training rows, one for each worker, found {len(batch.ids)}")
    batch = batch.take(slice(0, size * worker.world))
    y = np.zeros((len(batch.ids), 1), np.float32) if batch.y is None else np.asarray(batch.y, np.float32)
    own = batch._replace(y=y).take(slice(worker.rank * size, (worker.rank + 1) * size))
    own = own._replace(x=np.asarray(rows.take(own.x), dtype))
    found = targets(own)
    placed = None if found is None else copied(np.asarray(found, np.float32), device)
    return Placed(batch.ids, copied(own.x, device), copied(y, device), placed, y)


def copied(array: Array, device: torch.device) -> Tensor:
    """Return an array as a tensor on the device. Copies to a GPU use pinned memory, so that they are asynchronous."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
