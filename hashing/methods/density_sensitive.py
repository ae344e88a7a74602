"""Density sensitive hashing."""

from dataclasses import dataclass
from math import isfinite

import numpy as np

from ..anchors import kmeans, squared_centre_distances
from ..families import LinearHash
from ..mapreduce import Array, Data
from . import register


@register
@dataclass(frozen=True)
class DensitySensitive:
    """Density sensitive hashing: the most balanced planes halfway between adjacent groups of rows.

    Groups come from a few iterations of k-means. Two groups are adjacent if one is among the n_nearest nearest of the
    other; the plane between them avoids cutting dense regions. The n_bits planes that split the rows most evenly are
    selected, which are those of the largest entropy, the paper's criterion.

    Summed over all rows: the counts and sums of the groups.

    Reference: Jin, Li, Lin & Cai, Density sensitive hashing, IEEE Transactions on Cybernetics 2014. The defaults are
    those of the authors' code.
    """

    n_bits: int
    alpha: float = 1.5  # groups per bit
    n_nearest: int = 3
    n_iter: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if not isfinite(self.alpha):  # check_hyperparameters raises the error
            return
        pairs = min(self._groups * self.n_nearest, self._groups * (self._groups - 1) // 2)
        if pairs < self.n_bits:
            raise ValueError(
                f"expected a pair of adjacent groups for each of {self.n_bits} bits, found at most {pairs} with "
                f"alpha={self.alpha}, n_nearest={self.n_nearest}: raise alpha"
            )

    @property
    def _groups(self) -> int:
        return max(2, round(self.alpha * self.n_bits))

    def fit(self, data: Data) -> LinearHash:
        centres, counts = kmeans(data, self._groups, self.n_iter, self.seed)
        centres, counts = centres[counts > 0], counts[counts > 0]  # an empty group may coincide with another
        a, b = _adjacent(centres, self.n_nearest)
        if len(a) < self.n_bits:
            raise ValueError(
                f"expected at least n_bits = {self.n_bits} pairs of adjacent groups, found {len(a)}: raise alpha"
            )
        weight = (centres[a] - centres[b]).T  # (d, pairs)
        threshold = (weight * (centres[a] + centres[b]).T / 2).sum(axis=0)
        mass = counts @ (centres @ weight > threshold) / counts.sum()
        best = np.argsort(np.abs(mass - 0.5).round(9), kind="stable")[: self.n_bits]
        return LinearHash(weight[:, best], threshold[best])


def _adjacent(centres: Array, n_nearest: int) -> tuple[Array, ...]:
    """Return the pairs a < b of adjacent centres: one is among the n_nearest nearest of the other."""
    distances = squared_centre_distances(centres, centres)
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1, kind="stable")[:, :n_nearest]
    pairs = np.zeros(distances.shape, bool)
    np.put_along_axis(pairs, near, True, axis=1)
    return np.nonzero(np.triu(pairs | pairs.T, 1))
