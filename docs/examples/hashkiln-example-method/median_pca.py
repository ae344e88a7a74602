"""PCA hashing with balanced bits."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from hashing.functions import LinearHash
from hashing.mapreduce import Array, Batch, Data, Sum
from hashing.solvers import principal_directions
from hashing.statistics import moments


def _below(batch: Batch, weight: Array, threshold: Array) -> tuple[int, Array]:
    """How many rows there are, and how many of them lie below the threshold (n_bits,) of each bit."""
    return len(batch.x), (batch.x @ weight < threshold).sum(axis=0)


@dataclass(frozen=True)
class MedianPCA:
    """The signs of the principal projections around their medians: each bit is one for half of the rows.

    The median, which lies within one standard deviation of the mean, is found by bisection.
    Additive: the moments, then the rows below the thresholds in each iteration.

    Reference: Zhang, Wang, Cai & Lu, Self-taught hashing for fast similarity search, SIGIR 2010, section 3.2, for the
    medians; the directions are those of PCAH.
    """

    n_bits: int
    n_iter: int = 16

    def fit(self, data: Data) -> LinearHash:
        _, mean, cov = moments(data)
        weight = principal_directions(cov, self.n_bits)  # (d, n_bits)
        deviation = np.sqrt(np.diag(weight.T @ cov @ weight))
        low, high = mean @ weight - deviation, mean @ weight + deviation
        for _ in range(self.n_iter):
            middle = (low + high) / 2
            n, below = data.reduce(Sum(partial(_below, weight=weight, threshold=middle)), "medians")
            low, high = np.where(2 * below < n, middle, low), np.where(2 * below < n, high, middle)
        return LinearHash(weight, (low + high) / 2)
