"""One map-reduce: fold each shard where it lies, then merge the small states in shard order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial, reduce
from threading import Lock
from typing import Any, NamedTuple, Protocol, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import OpenBLASController, ThreadpoolController

Array = NDArray[Any]
T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")
Result = TypeVar("Result", covariant=True)

FAN_IN = 8


class Batch(NamedTuple):
    """n consecutive rows of a shard."""

    ids: Array  # (n,) int64
    x: Array  # (n, d) float32 vectors | (n, h, w, c) uint8 pictures | (n,) text | (n, B) uint8 packed codes
    y: Array | None = None  # (n, c) uint8, multi-hot labels

    def take(self, rows: Any) -> Batch:
        """Some rows: a slice, a mask or positions."""
        return Batch(self.ids[rows], self.x[rows], None if self.y is None else self.y[rows])


Shard = Iterable[Batch]  # picklable, and iterable more than once


class Executor(Protocol):
    """Where shards are visited. Every task holds one BLAS thread, so that all executors give the same bits."""

    def map(self, fn: Callable[[T], R], items: Sequence[T], label: str = "") -> Iterator[R]:
        """fn of each item, in the order of the items. fn is pure, so a retry is harmless."""

    def reduce(self, fn: Callable[[T], S], merge: Callable[[S, S], S], items: Sequence[T], label: str = "") -> S:
        """fn of each item, merged in the tree of `merge_tree`. At least one item."""

    def keep(self, fn: Callable[[T], R], items: Sequence[T], label: str = "") -> Sequence[R]:
        """fn of each item, left where it was made: items for another call of this executor, and for nothing else."""

    def train(self, loop: Callable[[Worker], None], name: str) -> bytes:
        """Run a training loop on every worker, and give the state last reported.

        A run of the same name that was cut off goes on from its last report: a name says all that the loop does.
        """

    def training_workers(self) -> int:
        """Return how many workers `train` starts. Raises ValueError where the machines have no place for them."""


class Epoch(TypedDict):
    """How a pass over the training rows went. Plain values: it is shown, kept as JSON, and part of checkpoints."""

    epoch: int  # from 1
    loss: float  # mean of the batches
    score: float | None  # of the rows held out; None where there are none
    lr: float  # of the last batch
    seconds: float
    rows: int


class Worker(Protocol):
    """One process of a training run."""

    @property
    def rank(self) -> int:
        """0 to world - 1."""

    @property
    def world(self) -> int:
        """Workers in all; if more than one, torch.distributed is up."""

    @property
    def device(self) -> str:
        """cpu or cuda."""

    @property
    def threads(self) -> int:
        """CPU threads of this worker."""

    def latest(self) -> bytes | None:
        """The state last reported before the run was cut off."""

    def report(self, epochs: Sequence[Epoch], most: int, state: bytes) -> None:
        """Tell of the epochs so far, of so many at most. All workers do at the same steps; rank 0's state is kept."""


class Statistic(Protocol[S, Result]):
    """A commutative monoid over batches: merge is associative and zero is its identity.

    `update` may write into its state, which is not used again. `merge` may not: states may lie in shared memory.
    """

    def zero(self) -> S: ...
    def update(self, state: S, batch: Batch) -> S: ...
    def merge(self, left: S, right: S) -> S: ...
    def finish(self, state: S) -> Result: ...


@dataclass(frozen=True)
class Sum:
    """The statistic whose state is a tuple of float64 arrays, and whose merge is addition."""

    terms: Callable[[Batch], tuple[Any, ...]]

    def zero(self) -> tuple[Array, ...]:
        return ()

    def update(self, state: tuple[Array, ...], batch: Batch) -> tuple[Array, ...]:
        return self.merge(state, tuple(np.asarray(term, np.float64) for term in self.terms(batch)))

    def merge(self, left: tuple[Array, ...], right: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(a + b for a, b in zip(left, right, strict=True)) if left and right else left or right

    def finish(self, state: tuple[Array, ...]) -> tuple[Array, ...]:
        if not state:
            raise ValueError("expected at least one row, found none in all shards together")
        return state


@dataclass(frozen=True)
class Data:
    """Shards, the executor that visits them, and parameters that a network may start from."""

    shards: Sequence[Shard]
    executor: Executor
    pretrained: Mapping[str, Array] = field(default_factory=dict)

    def reduce(self, statistic: Statistic[S, R], label: str = "") -> R:
        if not self.shards:
            raise ValueError("expected at least one shard, found none")
        label = label or type(statistic).__name__
        return statistic.finish(self.executor.reduce(partial(fold, statistic), statistic.merge, self.shards, label))

    def map_rows(self, fn: Callable[[Batch], Batch], label: str = "") -> Data:
        """fn of every batch, kept beside its shard on the workers' side, and made again there after a loss."""
        return Data(self.executor.keep(partial(_map_shard, fn), self.shards, label), self.executor)


def fold(statistic: Statistic[S, Any], shard: Shard) -> S:
    """The state of one shard."""
    return reduce(statistic.update, shard, statistic.zero())


def _map_shard(fn: Callable[[Batch], Batch], shard: Shard) -> list[Batch]:
    return list(map(fn, shard))


def merge_tree(states: Iterable[S], merge: Callable[[Sequence[S]], S]) -> S:
    """Merge contiguous groups of FAN_IN states, then groups of those, until one is left.

    The shape depends on the number of states alone, never on which came first, and only FAN_IN states a level are
    held at a time. S may stand for a state or for a reference to one.
    """
    levels: list[list[S]] = [[]]
    for state in states:
        levels[0].append(state)
        for level, group in enumerate(levels):
            if len(group) < FAN_IN:
                break
            if level + 1 == len(levels):
                levels.append([])
            levels[level + 1].append(merge(group))
            levels[level] = []
    rest: list[S] = []
    for group in levels:
        group = group + rest
        rest = [merge(group)] if len(group) > 1 else group
    if not rest:
        raise ValueError("expected at least one state to merge, found none")
    return rest[0]


_lock = Lock()
_callers = 0  # that are in one_blas_thread now
_before: list[int] = []  # threads of each of _shared_pools before the first of them


@cache
def _blas() -> ThreadpoolController:
    return ThreadpoolController()


@cache
def _shared_pools() -> list[OpenBLASController]:
    """Return the BLAS libraries whose threads belong to the process: OpenBLAS, unless it was built for OpenMP."""
    pools = _blas().select(internal_api="openblas").lib_controllers
    return [pool for pool in pools if pool.threading_layer != "openmp"]


def _limit(threads: list[int]) -> None:
    OpenBLASController.clear_controlling_thread(force=True)  # else limits of all threads but one are ignored
    for pool, n in zip(_shared_pools(), threads, strict=True):
        pool.set_num_threads(n)
    OpenBLASController.clear_controlling_thread(force=True)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Inside, BLAS uses one thread: with more, the bits of a product depend on the machine's load and cores.

    Threads may overlap here: where BLAS has one pool for all of them, the last one to leave lifts the limit.
    """
    global _callers, _before
    with _lock:
        if not _callers:
            _before = [pool.num_threads for pool in _shared_pools()]
            _limit([1] * len(_before))
        _callers += 1
    try:
        with _blas().limit(limits=1, user_api="blas"):
            yield
    finally:
        with _lock:
            _callers -= 1
            if not _callers:
                _limit(_before)
