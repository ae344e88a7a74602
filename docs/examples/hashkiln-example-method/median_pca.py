"""PCA hashing with balanced bits."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from hashing.families import LinearHash
from hashing.mapreduce import Array, Batch, Data, Sum
from hashing.solvers import principal_directions
from hashing.statistics import moments


def _below(batch: Batch, weight: Array, threshold: Array) -> tuple[int, Array]:
    """Return the number of rows, and for each bit how many of them lie below its threshold (n_bits,)."""
    return len(batch.x), (batch.x @ weight < threshold).sum(axis=0)


@dataclass(frozen=True)
class MedianPCA:
    """PCA hashing with each projection thresholded at its median, so that each bit is 1 for half of the rows.

    The median lies within one standard deviation of the mean, and is found by bisection.

    Summed over all rows: the moments, then in each iteration the number of rows below each threshold.

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
