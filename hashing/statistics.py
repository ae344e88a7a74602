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
