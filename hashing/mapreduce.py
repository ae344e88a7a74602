"""Map-reduce over shards: reduce each shard to a small state on its worker, then merge the states in shard order.

`Statistic`, `Executor` and `Worker` are protocols. Statistics and functions given to an executor run in other threads
and processes, so they must be picklable and safe to call from several threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypedDict, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeVar  # typing's has no default before Python 3.13

Array = NDArray[Any]
Metric = Literal["euclidean", "cosine", "ip"]
T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")
Result = TypeVar("Result", covariant=True)

FAN_IN = 8


class Batch(NamedTuple):
    """Consecutive rows of a shard; n is their number and may be 0."""

    ids: Array  # (n,) int64
    x: Array  # (n, d) float32 vectors | (n, h, w, c) uint8 images | (n,) text | (n, B) uint8 packed codes
    y: Array | None = None  # (n, c) uint8, multi-hot labels

    def take(self, rows: Any) -> Batch:
        """Return the selected rows; `rows` is a slice, a boolean mask (n,) or an array of positions."""
        if isinstance(rows, slice):
            return Batch(self.ids[rows], self.x[rows], None if self.y is None else self.y[rows])
        rows = np.asarray(rows)
        positions = np.flatnonzero(rows) if rows.dtype == bool else rows
        cut = partial(np.take, indices=positions, axis=0)  # up to 40 times as fast as x[positions], for narrow rows
        return Batch(cut(self.ids), cut(self.x), None if self.y is None else cut(self.y))


Shard = Iterable[Batch]  # picklable, and iterable more than once


def concatenated(batches: Sequence[Batch]) -> Batch:
    """Return the rows of at least one batch as one, with labels if all batches have them."""
    ids, x, y = zip(*batches, strict=True)
    labels = [part for part in y if part is not None]
    return Batch(np.concatenate(ids), np.concatenate(x), np.concatenate(labels) if len(labels) == len(y) else None)


Rows_co = TypeVar("Rows_co", covariant=True, default=Batch)  # what the shards yield
Rows_contra = TypeVar("Rows_contra", contravariant=True, default=Batch)  # what a statistic reads


class Vectors(Protocol):
    """Rows with vectors. Other fields are not read."""

    @property
    def x(self) -> Array:
        """Return the vectors (n, d)."""


@dataclass(frozen=True)
class Resources:
    """Resources that a task reserves on the machine that runs it."""

    cpus: float = 1
    gpus: float = 0  # a fraction shares a GPU between tasks
    memory: float = 0  # bytes; 0: not declared
    custom: Mapping[str, float] = field(default_factory=dict)  # by the names that machines declare

    def __post_init__(self) -> None:
        shared = self.gpus, *self.custom.values()  # by several tasks, in fractions of one
        if not all(0 <= value < np.inf for value in (self.cpus, self.memory, *shared)) or any(
            value > 1 and value % 1 for value in shared
        ):
            raise ValueError(f"expected resources of 0 or more, and whole GPUs and custom ones above 1, found {self}")

    def __str__(self) -> str:
        memory = f", {self.memory / 1e9:.3g} GB of memory" if self.memory else ""
        custom = "".join(f", {value:g} {name}" for name, value in self.custom.items())
        return f"{self.cpus:g} CPUs, {self.gpus:g} GPUs{memory}{custom}"

    def times(self, taken: Resources) -> int:
        """Return how many tasks that reserve `taken` each fit into these resources at a time."""
        pairs = [(self.cpus, taken.cpus), (self.gpus, taken.gpus), (self.memory, taken.memory)]
        pairs += [(self.custom.get(name, 0), part) for name, part in taken.custom.items()]
        return int(min((own // part for own, part in pairs if part), default=1))


@runtime_checkable
class Executor(Protocol):
    """Runs functions over shards, in this process or on other machines.

    An implementation must return results in the order of the items, give each call one BLAS thread (see hashing.blas)
    and merge in the tree of `merge_tree`, so that all executors produce the same bits. Functions and items must be
    picklable, and functions pure: an executor may run them in any order, in several threads at once, and again after a
    failure. `label` names the step in logs and progress.

    Examples
    --------
    A minimal `map` and `reduce` in one thread:

    >>> from hashing.blas import one_blas_thread
    >>> class Sequential:
    ...     def map(self, fn, items, label=""):
    ...         for item in items:
    ...             with one_blas_thread():
    ...                 result = fn(item)
    ...             yield result
    ...
    ...     def reduce(self, fn, merge, items, label=""):
    ...         return merge_tree(self.map(fn, items, label), lambda states: reduce(merge, states))
    >>> Sequential().reduce(len, int.__add__, ["abc", "de"])
    5
    """

    def with_resources(self, resources: Resources) -> Executor:
        """Return an executor whose tasks reserve the given resources each, instead of one CPU.

        Tasks on the same GPU share one copy of fn, so that fn may hold arrays there.

        Raises
        ------
        ValueError
            If no machine has these resources.
        """

    def map(self, fn: Callable[[T], R], items: Sequence[T], label: str = "") -> Iterator[R]:
        """Yield fn(item) for each item, in the order of the items."""

    def reduce(self, fn: Callable[[T], S], merge: Callable[[S, S], S], items: Sequence[T], label: str = "") -> S:
        """Return the results of fn for all items (at least one), merged in the tree of `merge_tree`."""

    def keep(self, fn: Callable[[T], R], items: Sequence[T], label: str = "") -> Sequence[R]:
        """Return handles to fn(item) for each item; the results stay on the workers that computed them.

        Handles are valid only as items of later calls of the same executor.
        """

    def train(self, loop: Callable[[Worker], None], name: str) -> bytes:
        """Run a training loop on every worker and return the last reported state.

        If an interrupted run is started again under the same name, it resumes from its last report. The name must
        therefore identify everything that the loop depends on.
        """

    def training_workers(self) -> int:
        """Return the number of workers that `train` starts.

        Raises
        ------
        ValueError
            If the cluster does not have the resources for them.
        """


class Epoch(TypedDict):
    """Metrics of one pass over the training rows: plain values, stored as JSON and in checkpoints."""

    epoch: int  # starts at 1
    loss: float  # mean over the batches
    score: float | None  # on the validation rows; None without any
    lr: float  # learning rate of the last batch
    seconds: float
    rows: int


class Worker(Protocol):
    """One process of a distributed training run, as the training loop sees it."""

    @property
    def rank(self) -> int:
        """Return the rank of this worker, 0 to world - 1."""

    @property
    def world(self) -> int:
        """Return the number of workers. With more than one, torch.distributed is initialized."""

    @property
    def device(self) -> str:
        """Return "cpu" or "cuda"."""

    @property
    def threads(self) -> int:
        """Return the number of CPU threads that this worker may use."""

    def latest(self) -> bytes | None:
        """Return the last state reported before the run was interrupted; None in a new run."""

    def report(self, epochs: Sequence[Epoch], most: int, state: bytes) -> None:
        """Report the finished epochs and the planned maximum, and save the state.

        All workers must call it at the same steps. The state of rank 0 is saved.
        """


class Statistic(Protocol[S, Result, Rows_contra]):
    """A quantity computed from all rows: a commutative monoid over batches.

    An implementation must be picklable, deterministic and without side effects. `merge` must be associative and
    commutative up to rounding, with `zero()` as its identity; `merge(state, update(zero(), batch))` must equal
    `update(state, batch)`. `update` may modify and return its state argument. `merge` must not modify its arguments,
    which may be in read-only shared memory.

    Examples
    --------
    The number of rows:

    >>> class Count:
    ...     def zero(self): return 0
    ...     def update(self, state, batch): return state + len(batch.ids)
    ...     def merge(self, left, right): return left + right
    ...     def finish(self, state): return state
    >>> from infra.executors import InProcess
    >>> shard = [Batch(np.arange(3), np.zeros((3, 2))), Batch(np.arange(3, 5), np.zeros((2, 2)))]
    >>> Data([shard], InProcess()).reduce(Count())
    5
    """

    def zero(self) -> S: ...
    def update(self, state: S, batch: Rows_contra) -> S: ...
    def merge(self, left: S, right: S) -> S: ...
    def finish(self, state: S) -> Result: ...


class Counts:
    """Base of statistics whose state and result are an array that is added up."""

    def merge(self, left: Array, right: Array) -> Array:
        return left + right

    def finish(self, state: Array) -> Array:
        return state


@dataclass(frozen=True)
class Sum(Generic[Rows_contra]):
    """Statistic: the sums over all batches of their terms, as a tuple of float64 arrays.

    `terms` is a pure, picklable function that returns numbers or arrays, of the same shapes for each batch. `finish`
    raises ValueError if there are no batches.

    `block` limits the number of rows whose terms are computed at a time, so that they fit into the CPU cache. With it,
    a batch must be a NamedTuple whose fields are arrays (n, ...) or None.

    Examples
    --------
    >>> from infra.executors import InProcess
    >>> data = Data([[Batch(np.arange(2), np.array([[1.0, 2.0], [3.0, 4.0]]))]], InProcess())
    >>> n, total = data.reduce(Sum(lambda batch: (len(batch.ids), batch.x.sum(axis=0))))
    >>> total / n
    array([2., 3.])
    """

    terms: Callable[[Rows_contra], tuple[Any, ...]]
    block: int | None = None

    def zero(self) -> tuple[Array, ...]:
        return ()

    def update(self, state: tuple[Array, ...], batch: Rows_contra) -> tuple[Array, ...]:
        for rows in self._blocks(batch):
            state = self.merge(state, tuple(np.asarray(term, np.float64) for term in self.terms(rows)))
        return state

    def merge(self, left: tuple[Array, ...], right: tuple[Array, ...]) -> tuple[Array, ...]:
        return tuple(a + b for a, b in zip(left, right, strict=True)) if left and right else left or right

    def finish(self, state: tuple[Array, ...]) -> tuple[Array, ...]:
        if not state:
            raise ValueError("expected at least one row, found none in any shard")
        return state

    def _blocks(self, batch: Any) -> Iterator[Any]:
        if self.block is None or len(batch[0]) <= self.block:
            yield batch
        else:
            for start in range(0, len(batch[0]), self.block):
                rows = slice(start, start + self.block)
                yield type(batch)(*(None if field is None else field[rows] for field in batch))


@dataclass(frozen=True)
class Data(Generic[Rows_co]):
    """The rows that a method learns from, and the executor that computes over them."""

    shards: Sequence[Iterable[Rows_co]]
    executor: Executor
    pretrained: Mapping[str, Array] = field(default_factory=dict)  # initial parameters of a network, by name
    metric: Metric = "euclidean"  # by which the vectors are compared; see methods.learn

    def reduce(self, statistic: Statistic[S, R, Rows_co], label: str = "") -> R:
        """Return a statistic of all rows; `label` names the step in logs, by default the statistic's class.

        Raises
        ------
        ValueError
            If there are no shards.
        """
        if not self.shards:
            raise ValueError("expected at least one shard, found none")
        label = label or type(statistic).__name__
        return statistic.finish(self.executor.reduce(partial(fold, statistic), statistic.merge, self.shards, label))

    def map_rows(self, fn: Callable[[Rows_co], T], label: str = "") -> Data[T]:
        """Return the data with fn (pure and picklable) applied to every batch, without the pretrained parameters.

        The results stay on the workers, and are computed again if they are lost. fn may return another type than Batch,
        which the statistics of the new data then read.
        """
        return Data(self.executor.keep(partial(_map_shard, fn), self.shards, label), self.executor, metric=self.metric)


def fold(statistic: Statistic[S, Any, T], shard: Iterable[T]) -> S:
    """Return the state of a statistic after all batches of one shard."""
    return reduce(statistic.update, shard, statistic.zero())


def _map_shard(fn: Callable[[T], R], shard: Iterable[T]) -> list[R]:
    return list(map(fn, shard))


def merge_tree(states: Iterable[S], merge: Callable[[Sequence[S]], S]) -> S:
    """Merge contiguous groups of FAN_IN states, then groups of the results, until one state is left.

    The shape of the tree depends only on the number of states, not on the order in which they arrive, and at most
    FAN_IN states per level are in memory. S may be a state or a reference to one.

    >>> merge_tree(map(str, range(10)), lambda states: "(" + " ".join(states) + ")")
    '((0 1 2 3 4 5 6 7) (8 9))'

    Raises
    ------
    ValueError
        If there are no states.
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
