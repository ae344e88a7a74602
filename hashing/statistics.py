"""Statistics that several methods compute from the data, in float64."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .mapreduce import Array, Batch, Data, Sum, Vectors, concatenated

_Scattered = tuple[int, Any, Any]  # n, mean, scatter; 0.0 instead of arrays of zeros
_Extremes = tuple[Array, Array] | None
_Smallest = tuple[Array, Batch] | None  # keys, ascending, and their rows


class Moments(NamedTuple):
    """Number, mean and covariance (divided by n) of the rows."""

    n: int
    mean: Array  # (d,) float64
    cov: Array  # (d, d) float64; () its trace


def moments(data: Data[Vectors], cov_above: float = 0) -> Moments:
    """Return the moments of all rows, in one pass that is accurate even if the mean is far from zero.

    For rows of at most `cov_above` dimensions, only the trace of the covariance is computed.

    Raises
    ------
    ValueError
        If there are no rows.

    Examples
    --------
    >>> from infra.executors import InProcess
    >>> moments(Data([[Batch(np.arange(2), np.array([[1.0], [3.0]]))]], InProcess()))
    Moments(n=2, mean=array([2.]), cov=array([[1.]]))
    """
    return data.reduce(_Scatter(cov_above), "moments")


def mean_of(data: Data[Vectors]) -> Array:
    """Return the mean (d,) float64 of all rows. Raises ValueError if there are none.

    >>> from infra.executors import InProcess
    >>> mean_of(Data([[Batch(np.arange(2), np.array([[1.0, 0.0], [3.0, 0.0]]))]], InProcess()))
    array([2., 0.])
    """
    n, total = data.reduce(Sum(_total), "mean")
    if not n:
        raise ValueError("expected at least one row, found none in any shard")
    mean: Array = total / n
    return mean


def n_rows(data: Data[Vectors]) -> int:
    """Return the number of rows."""
    return int(data.reduce(Sum(_n), "count")[0])


def _n(batch: Vectors) -> tuple[int]:
    return (len(batch.x),)


def with_ones(x: Array) -> Array:
    """Return [x 1] (n, d + 1) float64 for x (n, d).

    >>> with_ones(np.array([[2, 3]]))
    array([[2., 3., 1.]])
    """
    return np.hstack([x.astype(np.float64), np.ones((len(x), 1))])


def _total(batch: Vectors) -> tuple[int, Array]:
    return len(batch.x), batch.x.sum(axis=0, dtype=np.float64)


@dataclass(frozen=True)
class _Scatter:
    """Statistic: n, mean and scatter sum (x - mean)(x - mean)', merged pairwise (Chan, Golub & LeVeque 1979)."""

    cov_above: float

    def zero(self) -> _Scattered:
        return 0, 0.0, 0.0

    def update(self, state: _Scattered, batch: Vectors) -> _Scattered:
        rows = max(1024, 8 * batch.x.shape[1])  # fit the cache, and take longer than adding their (d, d) products
        for start in range(0, len(batch.x), rows):
            x = batch.x[start : start + rows].astype(np.float64)
            mean = x.mean(0)
            x -= mean
            state = self.merge(state, (len(x), mean, self._products(x)))
        return state

    def merge(self, left: _Scattered, right: _Scattered) -> _Scattered:
        if not left[0] or not right[0]:
            return left if left[0] else right
        (n, mean, scatter), (m, other, more) = left, right
        shift = other - mean
        between = self._products(shift[None]) * (n * m / (n + m))
        return n + m, mean + shift * (m / (n + m)), scatter + more + between

    def _products(self, x: Array) -> Any:
        return x.T @ x if x.shape[1] > self.cov_above else np.vdot(x, x)

    def finish(self, state: _Scattered) -> Moments:
        n, mean, scatter = state
        if not n:
            raise ValueError("expected at least one row, found none in any shard")
        return Moments(n, mean, np.asarray(scatter / n))


@dataclass(frozen=True)
class Range:
    """Statistic: the minimum and maximum of each column of x, or of x @ basis; None without rows."""

    basis: Array | None = None  # (d, k)

    def zero(self) -> _Extremes:
        return None

    def update(self, state: _Extremes, batch: Batch) -> _Extremes:
        x = batch.x if self.basis is None else batch.x @ self.basis
        return self.merge(state, (x.min(axis=0), x.max(axis=0)) if len(x) else None)

    def merge(self, left: _Extremes, right: _Extremes) -> _Extremes:
        if left is None or right is None:
            return right if left is None else left
        return np.minimum(left[0], right[0]), np.maximum(left[1], right[1])

    def finish(self, state: _Extremes) -> Any:  # Any, because methods always have rows, and unpack it
        return state


def keyed_hash(ids: Array, seed: int) -> Array:
    """Return a pseudorandom uint64, uniformly distributed, for each id (n,) int64.

    It depends only on the id and the seed, not on the order or the sharding of the rows: SplitMix64 (Steele, Lea &
    Flood, OOPSLA 2014) of the id xor the hashed seed.
    """
    with np.errstate(over="ignore"):
        hashed: Array = _splitmix(np.asarray(ids).astype(np.int64).view(np.uint64) ^ _splitmix(np.uint64(seed)))
    return hashed


def _splitmix(z: Any) -> Any:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


WORDS, FOLDED = 2**15, 2**11  # size of the vocabulary, in which 0 means no word; length of a vector of counts


def word_counts(x: Array) -> Array:
    """Return the word counts (n, FOLDED) float32 of texts, given as word numbers (n, length) padded with 0.

    Words whose numbers are equal modulo FOLDED share an entry.
    """
    counts = np.zeros((len(x), FOLDED), np.float32)
    words = np.asarray(x, np.int64)
    rows = np.repeat(np.arange(len(x)), words.shape[1])
    present = words.ravel() > 0
    np.add.at(counts, (rows[present], words.ravel()[present] % FOLDED), 1)
    return counts


def inverse_frequency(n_rows: int, n_containing: Array) -> Array:
    """Return log((1 + n_rows) / (1 + n_containing)) + 1 for each word, given the number of rows that contain it.

    This is the smooth inverse document frequency of scikit-learn.
    """
    weight: Array = np.log((1 + n_rows) / (1 + n_containing)) + 1
    return weight


def tf_idf(counts: Array, weight: Array) -> Array:
    """Return log(1 + count) times the inverse frequency of each word, (n, words), with rows of length one."""
    return unit_rows(np.log1p(counts) * weight)


def unit_rows(x: Array) -> Array:
    """Return the rows of x (n, d) scaled to length one; rows of zeros are unchanged.

    >>> unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[0.6, 0.8],
           [0. , 0. ]])
    """
    rows: Array = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return rows


def keyed_signs(ids: Array, n_bits: int, seed: int) -> Array:
    """Return a random code (n, n_bits) float64 of -1 and +1 for each id; it depends only on the id and the seed."""
    seeds = keyed_hash(np.arange(n_bits), seed).view(np.int64)
    return np.where(keyed_hash(ids[:, None] ^ seeds, seed) >> np.uint64(63), 1.0, -1.0)


@dataclass(frozen=True)
class Sample:
    """Statistic: k rows sampled uniformly without replacement, as one Batch in ascending order of id.

    They are the rows with the k smallest keyed hashes, so the sample does not depend on the order or the sharding of
    the rows. If there are fewer than k rows, all are returned. `finish` raises ValueError if there are none.

    Examples
    --------
    >>> sample = Sample(k=2, seed=0)
    >>> sample.finish(sample.update(sample.zero(), Batch(np.arange(5), np.zeros((5, 3))))).ids
    array([1, 4])
    """

    k: int
    seed: int = 0

    def zero(self) -> _Smallest:
        return None

    def update(self, state: _Smallest, batch: Batch) -> _Smallest:
        key = keyed_hash(batch.ids, self.seed)
        if state is not None and len(state[0]) == self.k:  # drop the rows that cannot be among the k smallest
            batch, key = batch.take(key < state[0][-1]), key[key < state[0][-1]]
        return self.merge(state, self._smallest(key, batch))

    def merge(self, left: _Smallest, right: _Smallest) -> _Smallest:
        if left is None or right is None:
            return right if left is None else left
        (key, a), (more, b) = left, right
        return self._smallest(np.concatenate([key, more]), concatenated([a, b]))

    def finish(self, state: _Smallest) -> Batch:
        if state is None:
            raise ValueError("expected at least one row to sample, found none in any shard")
        return state[1].take(np.argsort(state[1].ids))

    def _smallest(self, key: Array, batch: Batch) -> tuple[Array, Batch]:
        keep = np.lexsort((batch.ids, key))[: self.k]
        return key[keep], batch.take(keep)


def label_sets(data: Data) -> tuple[Array, Array]:
    """Return the distinct label sets (m, c) uint8, sorted, and the number of rows with each (m,) int64.

    Raises ValueError if no row has labels.
    """
    counts = data.reduce(_LabelSets(), "label sets")
    sets = np.array([np.frombuffer(key, np.uint8) for key in sorted(counts)])
    return sets, np.array([counts[key] for key in sorted(counts)], np.int64)


class _LabelSets:
    """Statistic: the number of rows of each label set, by its bytes."""

    def zero(self) -> dict[bytes, int]:
        return {}

    def update(self, state: dict[bytes, int], batch: Batch) -> dict[bytes, int]:
        if batch.y is None:
            return state
        sets, counts = np.unique(batch.y.astype(np.uint8), axis=0, return_counts=True)
        return self.merge(state, {row.tobytes(): int(n) for row, n in zip(sets, counts, strict=True)})

    def merge(self, left: dict[bytes, int], right: dict[bytes, int]) -> dict[bytes, int]:
        return {key: left.get(key, 0) + right.get(key, 0) for key in left.keys() | right.keys()}

    def finish(self, state: dict[bytes, int]) -> dict[bytes, int]:
        if not state:
            raise ValueError("expected at least one row with labels, found none in any shard")
        return state


def multi_hot(batch: Batch) -> Array:
    """Return Y (n, c) float64, the labels of the rows. Raises ValueError if the rows have no labels."""
    if batch.y is None:
        raise ValueError("expected rows with labels, found rows without: a supervised method learns from them")
    return batch.y.astype(np.float64)


def one_hot(batch: Batch) -> Array:
    """Return Y (n, c) float64, the one-hot class of each row.

    Raises ValueError if the rows have no labels, or a row does not have exactly one.
    """
    y = multi_hot(batch)
    if (wrong := y.sum(axis=1) != 1).any():
        i = int(wrong.argmax())
        raise ValueError(f"expected one label for each row, found {y[i].sum():.0f} for id {batch.ids[i]}")
    return y
