"""Sums over ranks and probabilities over orders of tied rows, accurate for ties of any length."""

from functools import cache

import numpy as np
from scipy.special import expi

from ..mapreduce import Array

HARMONIC_RANKS = 512  # sums of 1 / rank are tabulated up to this rank; beyond it, an asymptotic series is used
HARMONIC = np.concatenate([[0.0], np.cumsum(1 / np.arange(1.0, HARMONIC_RANKS + 1))])
DISCOUNT_RANKS = 1 << 20  # sums of discounts are tabulated up to this rank; beyond it, an integral is used


def ratio(numerator: Array, denominator: Array, empty: float = 0.0) -> Array:
    """Return numerator / denominator, and `empty` where the denominator is 0."""
    zero = denominator == 0
    return np.where(zero, empty, numerator / np.where(zero, 1, denominator))


def harmonic(start: Array, count: Array) -> Array:
    """Return 1/(start + 1) + ... + 1/(start + count), with an absolute error of 1e-14 at most for any start.

    start, count: float64 arrays of one shape, with integer values.
    """
    # Derivation: docs/evaluation.md, "Sums of 1 / rank"
    some = count > 0
    start, count, sums = start[some], count[some], np.zeros(start.shape)
    end = start + count
    a, b = np.maximum(start, HARMONIC_RANKS) + 0.5, np.maximum(end, HARMONIC_RANKS) + 0.5
    x, y = 1 / (a * a), 1 / (b * b)
    tail = np.log1p((b - a) / a) + (y - x) * (1 / 24 - 7 / 960 * (x + y))  # digamma(b) - digamma(a), being n + 1/2
    near = start < HARMONIC_RANKS
    low, high = start[near].astype(np.int64), np.minimum(end[near], HARMONIC_RANKS).astype(np.int64)
    tail[near] += HARMONIC[high] - HARMONIC[low]
    sums[some] = tail
    return sums


def discount_sum(rank: Array) -> Array:
    """Return 1/log2(2) + ... + 1/log2(rank + 1), with a relative error of 1e-12 at most.

    rank: int64 array, each 0 or more.
    """
    # Derivation: docs/evaluation.md, "Discounts of NDCG"

    def integral(end: Array) -> Array:
        """Return the integral of 1 / log x up to `end`, with the first correction of the midpoint rule."""
        total: Array = expi(np.log(end)) + 1 / (24 * end * np.log(end) ** 2)
        return total

    sums = discount_table().take(rank, mode="clip")
    far = rank > DISCOUNT_RANKS
    if far.any():
        sums[far] += np.log(2) * (integral(rank[far] + 1.5) - integral(np.array(DISCOUNT_RANKS + 1.5)))
    return sums


@cache
def discount_table() -> Array:
    """Return (DISCOUNT_RANKS + 1,) float64, the sum of discounts up to each rank: 8 MiB, computed on first use."""
    return np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2.0, DISCOUNT_RANKS + 2)))])


def no_hit_probability(n: Array, r: Array, seen: Array) -> Array:
    """Return the probability that the first `seen` of n tied rows include none of the r relevant ones.

    (n - r)! (n - seen)! / (n! (n - r - seen)!), a hypergeometric probability, for float64 arrays (q,) of integers.
    Values below 1e-18 are not accurate, but also returned below 1e-18.
    """
    # Derivation: docs/evaluation.md, "Success"
    few, many = np.minimum(r, seen), np.maximum(r, seen)
    probability = np.ones(len(n))
    for i in range(int(few.max(initial=0))):
        left = i < few
        probability *= np.where(left, np.maximum(1 - many / np.maximum(n - i, 1), 0), 1)
        if not (probability[left] > 1e-18).any():
            break
    return probability


def log_no_hit_probability(n: Array, r: Array, seen: Array) -> Array:
    """Return the logarithm of no_hit_probability for long ties and any real `seen`, by Stirling's series.

    Differences of almost equal logarithms are computed by log1p, which avoids cancellation.
    """
    # Derivation: docs/evaluation.md, "Reciprocal rank"

    def series(z: Array) -> Array:
        return 1 / (12 * z) - 1 / (360 * z**3)

    a, b = n + 1, n + 1 - seen
    rest = series(a - r) - series(b - r) - series(a) + series(b)
    total: Array = (a - 0.5) * np.log1p(-r / a) - (b - 0.5) * np.log1p(-r / b) + r * np.log1p(-seen / (a - r)) + rest
    return total
