"""Training rows, read from their shards once in a run and then from files of this machine, mapped into memory."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist

from ..mapreduce import Array, Batch, Shard, Worker
from .contract import Facts

SPARE = 2.0  # free disk, relative to the bytes of the rows, that is needed to store them


class Rows(NamedTuple):
    """The training rows of a run."""

    shards: Sequence[Shard]  # their batches hold what `take` takes for x
    take: Callable[[Array], Array] = np.asarray  # x of a batch -> rows (n, d)
    row_bytes: int = 0  # of a row in its source; 0 if the batches hold the rows themselves


class StoredRows(NamedTuple):
    """The rows that one reader stored, in the order of its shards."""

    blocks: dict[int, list[int]]  # shard -> rows of each of its batches
    row_bytes: int
    labels: tuple[str, int] | None  # dtype and width of y


@dataclass(frozen=True)
class StoredShard:
    """The training rows of a shard. The x of its batches is their position among all rows."""

    ids: Array
    y: Array | None
    first: int  # position of the first row
    blocks: list[int]

    def __iter__(self) -> Iterator[Batch]:
        start = 0
        for n in self.blocks:
            rows = slice(start, start + n)
            places = np.arange(self.first + start, self.first + start + n)
            yield Batch(self.ids[rows], places, None if self.y is None else self.y[rows])
            start += n


def stored(shards: Sequence[Shard], held_out: Callable[[Array], Array], facts: Facts, worker: Worker) -> Rows:
    """Read each shard once, by one thread of one worker of this machine, and return the rows in files mapped by all.

    The files have no name any more when this returns: the disk is free again when the last worker ends, however it
    ends. Without disk for twice the rows on each machine, all workers read the shards in each epoch.

    Parameters
    ----------
    shards : all shards
    held_out : mask (n,) of the rows with given ids that are not for training
    facts : of the training rows
    worker : this one; all workers must call this together

    Raises
    ------
    ValueError
        A shard raised it, of this worker or of another one.

    """
    width = len(facts.mean) * np.dtype(facts.dtype).itemsize + facts.n_classes + 8
    with TemporaryDirectory(prefix="hashkiln-", ignore_cleanup_errors=True) as folder:
        fits = shutil.disk_usage(folder).free > SPARE * facts.rows * width
        plans = _gathered((folder, worker.threads, fits), worker)
        if not all(fits for *_, fits in plans):
            return Rows(shards)
        # Workers that see a folder share its machine, and all of them see the same ones.
        paths = [Path(path, str(i)) for path, n, _ in plans if Path(path).is_dir() for i in range(n)]
        own = [reader for reader, path in enumerate(paths) if path.parent == Path(folder)]
        write = partial(_write, shards, len(paths), held_out, facts.dtype)
        try:
            with ThreadPoolExecutor(len(own), "readers") as pool:
                written: Any = list(pool.map(write, own, (paths[reader] for reader in own)))
        except ValueError as error:
            written = error
        found = _gathered((folder, written), worker)
        errors = [parts for _, parts in found if isinstance(parts, ValueError)]
        if errors:
            raise errors[0]
        parts = [part for path, parts in found if Path(path).is_dir() for part in parts]
        rows = _mapped(paths, parts, len(shards), len(facts.mean), facts.dtype)
        _gathered(None, worker)  # all have opened the files
    return rows


def _gathered(value: Any, worker: Worker) -> list[Any]:
    """Return the values of all workers."""
    if worker.world == 1:
        return [value]
    values = [None] * worker.world
    dist.all_gather_object(values, value)
    return values


def _write(
    shards: Sequence[Shard], step: int, held_out: Callable[[Array], Array], dtype: str, reader: int, path: Path
) -> StoredRows:
    """Store the training rows of each step-th shard."""
    blocks: dict[int, list[int]] = {}
    row_bytes, labels, unlabelled = 0, None, False
    with open(f"{path}.ids", "wb") as ids, open(f"{path}.x", "wb") as x, open(f"{path}.y", "wb") as y:
        for shard in range(reader, len(shards), step):
            blocks[shard] = []
            for batch in shards[shard]:
                trained = ~held_out(batch.ids)
                if not trained.any():
                    continue
                batch = batch.take(trained)
                blocks[shard].append(len(batch.ids))
                row_bytes = batch.x[0].nbytes
                np.asarray(batch.ids, np.int64).tofile(ids)
                np.asarray(batch.x, dtype).tofile(x)
                if batch.y is None:
                    unlabelled = True
                else:
                    labels = batch.y.dtype.str, batch.y.shape[1]
                    batch.y.tofile(y)
    return StoredRows(blocks, row_bytes, None if unlabelled else labels)


def _mapped(paths: Sequence[Path], parts: Sequence[StoredRows], n_shards: int, dim: int, dtype: str) -> Rows:
    """Return the rows in the files of all readers."""
    filled = [(path, part) for path, part in zip(paths, parts, strict=True) if part.row_bytes]
    labelled = all(part.labels for _, part in filled)
    shards: list[Shard] = [[] for _ in range(n_shards)]
    x, first = [], [0]
    for path, part in filled:
        x.append(_map(f"{path}.x", dtype, dim))
        ids = _map(f"{path}.ids", np.int64, 1)[:, 0]
        y = _map(f"{path}.y", *part.labels) if labelled and part.labels else None
        start = 0
        for shard, blocks in part.blocks.items():
            rows = slice(start, start + sum(blocks))
            shards[shard] = StoredShard(ids[rows], None if y is None else y[rows], first[-1] + start, blocks)
            start = rows.stop
        first.append(first[-1] + start)
    row_bytes = max((part.row_bytes for _, part in filled), default=0)
    return Rows(shards, partial(_take, x, np.array(first)), row_bytes)


def _map(path: str, dtype: Any, width: int) -> Array:
    return np.asarray(np.memmap(path, dtype, "r")).reshape(-1, width)


def _take(x: Sequence[Array], first: Array, places: Array) -> Array:
    """Return the rows at some positions; the rows of x[i] have the positions first[i] to first[i + 1] - 1."""
    if len(x) == 1:
        return x[0][places]
    part = np.searchsorted(first, places, "right") - 1
    rows = np.empty((len(places), x[0].shape[1]), x[0].dtype)
    for i in np.unique(part):
        own = part == i
        rows[own] = x[i][places[own] - first[i]]
    return rows
