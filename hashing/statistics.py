"""What methods ask of the data: mergeable statistics, summed in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .mapreduce import Array, Batch, Data


class Moments(NamedTuple):
    """Count, mean and covariance (divided by n) of the rows."""

    n: int
    mean: Array  # (d,) float64
    cov: Array  # (d, d) float64


def moments(data: Data) -> Moments:
    """Mean and covariance of all rows, in one pass that does not cancel however far the mean is from zero."""
    return data.reduce(_Scatter(), "moments")


class _Scatter:
    """n, mean, and the scatter sum (x - mean)(x - mean)', merged pairwise (Chan, Golub & LeVeque 1979)."""

    def zero(self):
        return 0, 0.0, 0.0

    def update(self, state, batch: Batch):
        if not len(batch.x):
            return state
        x = batch.x.astype(np.float64)
        mean = x.mean(0)
        x -= mean
        return self.merge(state, (len(x), mean, x.T @ x))

    def merge(self, left, right):
        if not left[0] or not right[0]:
            return left if left[0] else right
        (n, mean, scatter), (m, other, more) = left, right
        shift = other - mean
        return n + m, mean + shift * (m / (n + m)), scatter + more + np.outer(shift, shift) * (n * m / (n + m))

    def finish(self, state):
        n, mean, scatter = state
        if not n:
            raise ValueError("expected at least one row, found none in all shards together")
        return Moments(n, mean, scatter / n)


@dataclass(frozen=True)
class Range:
    """Statistic: the least and the greatest value in each column of x, or of x @ basis; None without rows."""

    basis: Array | None = None  # (d, k)

    def zero(self):
        return None

    def update(self, state, batch: Batch):
        x = batch.x if self.basis is None else batch.x @ self.basis
        return self.merge(state, (x.min(axis=0), x.max(axis=0)) if len(x) else None)

    def merge(self, left, right):
        if left is None or right is None:
            return right if left is None else left
        return np.minimum(left[0], right[0]), np.maximum(left[1], right[1])

    def finish(self, state):
        return state


def keyed_hash(ids: Array, seed: int) -> Array:
    """A uniform uint64 of each id (n,) int64 and the seed: randomness that no order and no cut of the rows can change.

    SplitMix64 (Steele, Lea & Flood, OOPSLA 2014), of the id xor the hashed seed.
    """
    with np.errstate(over="ignore"):
        return _splitmix(np.asarray(ids).astype(np.int64).view(np.uint64) ^ _splitmix(np.uint64(seed)))


def _splitmix(z):
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


WORDS, FOLDED = 2**15, 2**11  # numbers of words, of which 0 is none; and the entries of a vector of counts


def word_counts(x: Array) -> Array:
    """How often each word of a text comes: rows of word numbers (n, length) -> (n, FOLDED), words folded together."""
    counts = np.zeros((len(x), FOLDED), np.float32)
    words = np.asarray(x, np.int64)
    rows = np.repeat(np.arange(len(x)), words.shape[1])
    present = words.ravel() > 0
    np.add.at(counts, (rows[present], words.ravel()[present] % FOLDED), 1)
    return counts


def inverse_frequency(n_rows: int, n_containing: Array) -> Array:
    """Return log((1 + n_rows) / (1 + n_containing)) + 1 of each word, given the number of rows that contain it.

    The smooth inverse document frequency of scikit-learn.
    """
    weight: Array = np.log((1 + n_rows) / (1 + n_containing)) + 1
    return weight


def tf_idf(counts: Array, weight: Array) -> Array:
    """Return log(1 + count) times the inverse frequency of each word, (n, words), scaled to rows of length one."""
    return unit_rows(np.log1p(counts) * weight)


def unit_rows(x: Array) -> Array:
    """Return the rows of x (n, d) scaled to length one; rows of zeros stay as they are."""
    rows: Array = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return rows


def keyed_signs(ids: Array, n_bits: int, seed: int) -> Array:
    """(n, n_bits) float64 of -1 and +1: a random code of each id, the same in any cut."""
    seeds = keyed_hash(np.arange(n_bits), seed).view(np.int64)
    return np.where(keyed_hash(ids[:, None] ^ seeds, seed) >> np.uint64(63), 1.0, -1.0)


@dataclass(frozen=True)
class Sample:
    """k rows drawn uniformly without replacement: those of the k smallest keyed hashes, as one Batch by rising id."""

    k: int
    seed: int = 0

    def zero(self):
        return None

    def update(self, state, batch: Batch):
        key = keyed_hash(batch.ids, self.seed)
        if state is not None and len(state[0]) == self.k:  # most rows cannot be among the smallest: drop them early
            batch, key = batch.take(key < state[0][-1]), key[key < state[0][-1]]
        return self.merge(state, self._smallest(key, batch))

    def merge(self, left, right):
        if left is None or right is None:
            return right if left is None else left
        (key, a), (more, b) = left, right
        return self._smallest(np.concatenate([key, more]), Batch(*map(_concatenate, a, b)))

    def finish(self, state):
        if state is None:
            raise ValueError("expected at least one row to sample, found none in all shards together")
        return state[1].take(np.argsort(state[1].ids))

    def _smallest(self, key, batch):
        keep = np.lexsort((batch.ids, key))[: self.k]
        return key[keep], batch.take(keep)


def _concatenate(a, b):
    return None if a is None else np.concatenate([a, b])


def label_sets(data: Data) -> tuple[Array, Array]:
    """The distinct sets of labels (m, c) uint8, in order, and how many rows have each (m,)."""
    counts = data.reduce(_LabelSets(), "label sets")
    sets = np.array([np.frombuffer(key, np.uint8) for key in sorted(counts)])
    return sets, np.array([counts[key] for key in sorted(counts)], np.int64)


class _LabelSets:
    """Rows by their labels."""

    def zero(self):
        return {}

    def update(self, state, batch: Batch):
        if batch.y is None:
            return state
        sets, counts = np.unique(batch.y.astype(np.uint8), axis=0, return_counts=True)
        return self.merge(state, {row.tobytes(): int(n) for row, n in zip(sets, counts, strict=True)})

    def merge(self, left, right):
        return {key: left.get(key, 0) + right.get(key, 0) for key in left.keys() | right.keys()}

    def finish(self, state):
        if not state:
            raise ValueError("expected at least one row with labels, found none in all shards together")
        return state


def one_hot(batch: Batch) -> Array:
    """Y (n, c) float64, the class of each row. Raises ValueError where a row has none, or more than one."""
    if batch.y is None:
        raise ValueError("expected rows with labels, which a supervised method learns from, found rows without")
    if (wrong := batch.y.sum(axis=1) != 1).any():
        i = int(wrong.argmax())
        raise ValueError(f"expected one label for each row, found {batch.y[i].sum()} for id {batch.ids[i]}")
    return batch.y.astype(np.float64)
