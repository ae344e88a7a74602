"""The batches of an epoch, in an order keyed by the seed, and a thread that prepares them ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from ..mapreduce import Batch
from ..statistics import keyed_hash
from .contract import Trainable
from .stored import Rows

WINDOW = 2**28  # bytes of rows shuffled together
AHEAD = 3  # batches prepared while a step is taken

T = TypeVar("T")
_END = object()


def batches(rows: Rows, method: Trainable, epoch: int) -> Iterator[Batch]:
    """Yield the batches of an epoch: shards in keyed order, and rows in keyed order within windows of WINDOW bytes.

    Rows that fit into one window give the same batches for any division into shards. The last incomplete batch is
    skipped, unless it holds all rows. Its x are what `rows.take` takes.
    """
    shards = rows.shards
    seed = int(keyed_hash(np.array([epoch]), method.seed)[0])
    window: list[Batch] = []
    seen = 0
    for place in np.argsort(keyed_hash(np.arange(len(shards)), seed), kind="stable"):
        for batch in shards[place]:
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


def _shuffled(window: list[Batch], seed: int, size: int) -> Generator[Batch, None, Batch]:
    """Yield whole batches in keyed order, and return the remaining rows. Empties the list, to hold its rows once."""
    labels = [part.y for part in window if part.y is not None]
    y = np.concatenate(labels) if len(labels) == len(window) else None
    rows = Batch(np.concatenate([part.ids for part in window]), np.concatenate([part.x for part in window]), y)
    window.clear()
    order = np.argsort(keyed_hash(rows.ids, seed), kind="stable")
    whole = len(order) // size * size
    for start in range(0, whole, size):
        yield rows.take(order[start : start + size])
    return rows.take(order[whole:])


@contextmanager
def ahead(items: Iterable[T], depth: int = AHEAD) -> Iterator[Iterator[T]]:
    """Yield an iterator over items that a thread prepares, at most `depth` of them ahead.

    An error of the items is raised where the item would have come. The thread has ended when the block has.
    """
    source = iter(items)
    with ThreadPoolExecutor(1, "batches") as pool:
        waiting = deque(pool.submit(next, source, _END) for _ in range(depth))

        def prepared() -> Iterator[T]:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(pool.submit(next, source, _END))
                yield item  # type: ignore[misc]  # _END is the only item of another type

        try:
            yield prepared()
        finally:
            pool.shutdown(cancel_futures=True)
