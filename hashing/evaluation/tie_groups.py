"""Ties: what the metrics of a histogram share, sums over the ranks of rows at one distance.

The names are those of hashing.metrics.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..mapreduce import Array

TABLE = 512  # sums of 1 / rank are looked up to here; beyond, they are asymptotic series
HARMONIC = np.concatenate([[0.0], np.cumsum(1 / np.arange(1.0, TABLE + 1))])


@dataclass(frozen=True, eq=False)
class Groups:
    """A histogram, and what its metrics share: (q, n_bits + 1) float64, as functions of the distance."""

    h: Array

    @cached_property
    def n(self) -> Array:
        return self.h[0].astype(np.float64)

    @cached_property
    def r(self) -> Array:
        return self.h[1].astype(np.float64)

    @cached_property
    def n_before(self) -> Array:
        return self.n.cumsum(axis=1) - self.n

    @cached_property
    def r_before(self) -> Array:
        return self.r.cumsum(axis=1) - self.r

    @cached_property
    def sums(self) -> Array:
        """1/(N + 1) + ... + 1/(N + n)."""
        return harmonic(self.n_before, self.n)

    @cached_property
    def hits(self) -> Array:
        """Expected sum of l_i P(i) over the ranks of a distance."""
        return hit_precision(self.n, self.r, self.n_before, self.r_before, self.n, self.sums)

    @cached_property
    def relevant(self) -> Array:
        """All relevant rows, (q,)."""
        return self.r.sum(axis=1)

    def cut(self, k: int) -> tuple[Array, Array, Array, Array, Array]:
        """N, R, n, r of the distance that rank k cuts, and how many of its rows are seen, each (q,) float64.

        Where k ends a distance, or lies beyond the last row, the cut distance is empty.
        """
        last = (self.n_before + self.n <= at_least_one(k)).sum(axis=1)
        place = np.minimum(last, self.n.shape[1] - 1)
        i, inside = np.arange(len(last)), last == place
        n, r, n_before, r_before = (part[i, place] for part in (self.n, self.r, self.n_before, self.r_before))
        n_before, r_before = np.where(inside, (n_before, r_before), (n_before + n, r_before + r))
        n, r = np.where(inside, (n, r), 0)
        return n_before, r_before, n, r, np.minimum(k - n_before, n)


Histogram = Array | Groups


def groups(h: Histogram) -> Groups:
    return h if isinstance(h, Groups) else Groups(h)


def hit_precision(n: Array, r: Array, n_before: Array, r_before: Array, seen: Array, sums: Array) -> Array:
    """Expected sum of l_i P(i) over the first `seen` ranks of a distance (McSherry & Najork, ECIR 2008).

    sums are harmonic(n_before, seen).
    """
    slope = (r - 1) / np.maximum(n - 1, 1)  # given a hit at place i of its tie, (i - 1) slope hits stand before it
    return r / np.maximum(n, 1) * (slope * seen + (r_before + 1 - slope * (n_before + 1)) * sums)


def harmonic(start: Array, count: Array) -> Array:
    """1/(start + 1) + ... + 1/(start + count), to 1e-14 absolute however large start is."""
    some = count > 0
    start, count, sums = start[some], count[some], np.zeros(start.shape)
    end = start + count
    a, b = np.maximum(start, TABLE) + 0.5, np.maximum(end, TABLE) + 0.5
    x, y = 1 / (a * a), 1 / (b * b)
    found = np.log1p((b - a) / a) + (y - x) * (1 / 24 - 7 / 960 * (x + y))  # digamma(b) - digamma(a), being n + 1/2
    near = start < TABLE
    low, high = start[near].astype(np.int64), np.minimum(end[near], TABLE).astype(np.int64)
    found[near] += HARMONIC[high] - HARMONIC[low]
    sums[some] = found
    return sums


def ratio(numerator: Array, denominator: Array, empty: float = 0.0) -> Array:
    """numerator / denominator, `empty` where the denominator is 0."""
    none = denominator == 0
    return np.where(none, empty, numerator / np.where(none, 1, denominator))


def at_least_one(k: int) -> int:
    if k < 1:
        raise ValueError(f"expected a rank k >= 1, found {k}")
    return k
