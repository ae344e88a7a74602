"""Training rows, read from their shards once in a run, during training, into files that workers map into memory."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import IO, Any, NamedTuple

import numpy as np

from ..mapreduce import Array, Batch, Shard, Worker
from .collectives import all_values
from .contract import Facts

SPARE = 2.0  # free disk space needed to store the rows, relative to their bytes
POLL = 0.01  # seconds between two checks of what another process has read


@dataclass
class TrainingRows:
    """The training rows of a run."""

    shards: Sequence[Iterable[Batch]]  # the x of their batches are arguments of `take`
    take: Callable[[Array], Array] = np.asarray  # x of a batch -> rows (n, d)
    row_bytes: int = 0  # bytes of a row in its source; 0 if the batches hold the rows themselves


class StoredPart(NamedTuple):
    """The rows of a shard in the files of its reader."""

    first: int  # position of its first row
    blocks: list[tuple[int, bool]]  # rows of each of its batches, and whether they have labels
    row_bytes: int


class Files(NamedTuple):
    """The files of a reader, as arrays or as files open for writing. `parts` has a line of JSON for each shard."""

    ids: Any  # (rows, 1) int64
    x: Any  # (rows, d)
    y: Any  # (rows, c) uint8
    parts: IO[str]


@dataclass(frozen=True)
class StoredShard:
    """The training rows of a shard. The x of its batches is their position among all rows."""

    files: Files
    base: int  # position of the first row of its reader among all rows
    part: Callable[[], StoredPart]  # waits until the shard has been read
    rows: TrainingRows

    def __iter__(self) -> Iterator[Batch]:
        start, blocks, self.rows.row_bytes = self.part()
        for n, labelled in blocks:
            own = slice(start, start + n)
            places = np.arange(self.base + start, self.base + start + n)
            yield Batch(self.files.ids[own, 0], places, self.files.y[own] if labelled else None)
            start += n


@contextmanager
def stored(
    shards: Sequence[Shard], order: Array, held_out: Callable[[Array], Array], facts: Facts, worker: Worker
) -> Iterator[TrainingRows]:
    """Read each shard once, in one thread of one worker of this machine, and yield the rows in files mapped by all.

    The threads read while the block runs: the first iteration over a shard waits until it has been read. The files
    have no names, so the disk space is freed when the last worker ends, even if it is killed. If a machine lacks disk
    space for twice the rows, all workers read the shards in each epoch instead.

    `order` has the positions of the shards in the order of their first iteration; `held_out` returns a mask (n,) of ids
    that are not used for training. All workers must call this together. The iteration over a shard raises ValueError if
    its reader did, in this worker or in another one.
    """
    columns = ("ids", "int64", 1), ("x", facts.dtype, len(facts.mean)), ("y", "uint8", facts.n_classes)
    row = sum(np.dtype(dtype).itemsize * width for _, dtype, width in columns)
    with ExitStack() as opened:
        with TemporaryDirectory(prefix="hashkiln-", ignore_cleanup_errors=True) as folder:
            fits = shutil.disk_usage(folder).free > SPARE * facts.rows * row
            plans = all_values((folder, worker.threads, fits), worker)
            if not all(fits for *_, fits in plans):
                yield TrainingRows(shards)
                return
            # Workers that see a folder are on its machine, and all workers of a machine see the same folders.
            paths = [Path(path, str(i)) for path, n, _ in plans if Path(path).is_dir() for i in range(n)]
            own = {i: _create(path, columns, facts.rows, opened) for i, path in enumerate(paths)
                   if path.parent == Path(folder)}  # fmt: skip
            all_values(None, worker)  # all have created their files
            files = [_open(path, columns, opened) for path in paths]
            all_values(None, worker)  # all have opened them
        stop, rows = Event(), TrainingRows([], partial(_take, [of.x for of in files], facts.rows))
        pool = opened.enter_context(ThreadPoolExecutor(len(own), "readers"))
        opened.callback(stop.set)
        parts: dict[int, Callable[[], StoredPart]] = {}
        for reader, of in enumerate(files):
            shares = order[reader :: len(files)].tolist()
            if reader in own:
                found: dict[int, Future[StoredPart]] = {shard: Future() for shard in shares}
                parts |= {shard: future.result for shard, future in found.items()}
                pool.submit(_read, shards, found, own[reader], held_out, facts, stop)
            else:
                elsewhere = _Elsewhere(of.parts)
                parts |= {shard: partial(elsewhere.part, shard) for shard in shares}
        at = {shard: place % len(files) for place, shard in enumerate(order.tolist())}
        rows.shards = [StoredShard(files[at[i]], at[i] * facts.rows, parts[i], rows) for i in range(len(shards))]
        yield rows


def _create(path: Path, columns: Sequence[tuple[str, str, int]], rows: int, opened: ExitStack) -> Files:
    """Return new sparse files of a reader, with room for all rows."""
    ids, x, y = files = [opened.enter_context(open(f"{path}.{name}", "wb")) for name, *_ in columns]  # noqa: SIM115  # the stack closes them
    for file, (_, dtype, width) in zip(files, columns, strict=True):
        file.truncate(rows * width * np.dtype(dtype).itemsize)
    return Files(ids, x, y, opened.enter_context(open(f"{path}.parts", "w", buffering=1)))


def _open(path: Path, columns: Sequence[tuple[str, str, int]], opened: ExitStack) -> Files:
    """Return the files of a reader, mapped into memory."""
    ids, x, y = (
        np.asarray(np.memmap(f"{path}.{name}", dtype, "r")).reshape(-1, width) for name, dtype, width in columns
    )
    return Files(ids, x, y, opened.enter_context(open(f"{path}.parts")))


def _read(
    shards: Sequence[Shard], found: dict[int, Future[StoredPart]], files: Files, held_out: Callable[[Array], Array],
    facts: Facts, stop: Event,
) -> None:  # fmt: skip
    """Store the training rows of some shards. Results go to `found`, and to other processes in a file."""
    first = 0
    for shard, future in found.items():
        try:
            part = _store(shards[shard], first, files, held_out, facts, stop)
        except Exception as error:  # raised again where the rows are needed
            files.parts.write(json.dumps([type(error).__name__, str(error)]) + "\n")
            for later in found.values():
                if not later.done():
                    later.set_exception(error)
            return
        first += sum(n for n, _ in part.blocks)
        files.parts.write(json.dumps([shard, *part]) + "\n")
        future.set_result(part)


def _store(
    shard: Shard, first: int, files: Files, held_out: Callable[[Array], Array], facts: Facts, stop: Event
) -> StoredPart:
    blocks, row_bytes, end = [], 0, first
    for batch in shard:
        if stop.is_set():
            raise InterruptedError("training has ended")
        trained = ~held_out(batch.ids)
        if not trained.any():
            continue
        batch = batch.take(trained)
        end, row_bytes = end + len(batch.ids), batch.x[0].nbytes
        if end > facts.rows:
            raise ValueError(
                f"expected {facts.rows:,} training rows, as counted before, found more: the source changed"
            )
        blocks.append((len(batch.ids), batch.y is not None))
        np.asarray(batch.ids, np.int64).tofile(files.ids)
        np.asarray(batch.x, facts.dtype).tofile(files.x)
        y = np.zeros((len(batch.ids), facts.n_classes)) if batch.y is None else batch.y
        np.asarray(y, np.uint8).tofile(files.y)
    return StoredPart(first, blocks, row_bytes)


@dataclass
class _Elsewhere:
    """The shards that a reader in another process has stored."""

    file: IO[str]
    rest: str = ""  # an incomplete line
    found: dict[int, StoredPart] = field(default_factory=dict)

    def part(self, shard: int) -> StoredPart:
        """Wait until a shard has been read. If its reader dies, the executor ends all workers."""
        while shard not in self.found:
            *lines, self.rest = (self.rest + self.file.read()).split("\n")
            for name, *values in map(json.loads, lines):
                if isinstance(name, str):
                    raise (ValueError if name == "ValueError" else RuntimeError)(*values)
                self.found[name] = StoredPart(*values)
            if not lines:
                time.sleep(POLL)
        return self.found[shard]


def _take(x: Sequence[Array], base: int, places: Array) -> Array:
    """Return the rows at some positions; the rows of x[i] have the positions from i * base on."""
    if len(x) == 1:
        return x[0][places]
    part = places // base
    rows = np.empty((len(places), x[0].shape[1]), x[0].dtype)
    for i in np.unique(part):
        own = part == i
        rows[own] = x[i][places[own] - i * base]
    return rows
