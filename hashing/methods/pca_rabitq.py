"""RaBitQ of the principal coordinates, with the number of bits for each learned from the variances."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..mapreduce import Array, Data
from ..quantizers.rabitq import DISTORTIONS, RaBitQHash
from ..solvers import random_directions, top_eigenvectors
from ..statistics import moments
from . import register


@register
@dataclass(frozen=True)
class PCARaBitQ:
    """RaBitQ of the k directions of largest variance, with n_bits / k bits for each coordinate: 1 to 8.

    Few directions are rounded finely, many coarsely. Of all k that divide n_bits, the fit takes the one with the least
    expected squared distance of a row from its rounding: the variance of the other directions, plus the share of the
    variance of the k directions that rounding to n_bits / k bits loses. With one bit for each direction, it is rabitq
    with n_bits < d.

    The directions are rotated at random. Rows store two float16 correctives, 4 bytes, and search ranks by the distances
    that rabitq estimates, here between projections. Hamming distances of the bits mean less: they weigh the bits of a
    coordinate alike.

    Summed over all rows: the moments, in one pass.

    Reference: Gao et al., Practical and asymptotically optimal quantization of high-dimensional vectors in Euclidean
    space for approximate nearest neighbor search, SIGMOD 2025, after PCA; the choice of k is ours.
    """

    n_bits: int
    seed: int = 0
    columns: ClassVar[tuple[str, ...]] = RaBitQHash.columns

    def check_dim(self, dim: int) -> None:
        if not _divisions(self.n_bits, dim):
            most = min(self.n_bits, max(DISTORTIONS) * dim)
            fewer = next(n_bits for n_bits in range(most, 0, -1) if _divisions(n_bits, dim))
            raise ValueError(
                f"expected n_bits as a product of at most d = {dim} directions and at most {max(DISTORTIONS)} bits for "
                f"each, found n_bits = {self.n_bits}: ask for {fewer} bits"
            )

    def fit(self, data: Data) -> RaBitQHash:
        found = moments(data)
        self.check_dim(d := len(found.mean))
        directions = top_eigenvectors(found.cov, d)
        k = _best_k(self.n_bits, np.einsum("ij,ij->j", directions, found.cov @ directions))
        rotation = directions[:, :k] @ random_directions(k, k, np.random.default_rng(self.seed))
        return RaBitQHash.fitted(rotation, found, self.n_bits // k, data.metric)


def _divisions(n_bits: int, dim: int) -> list[int]:
    """Return the possible numbers of directions, most first."""
    return [n_bits // bits for bits in DISTORTIONS if n_bits % bits == 0 and 0 < n_bits // bits <= dim]


def _best_k(n_bits: int, variances: Array) -> int:
    """Return the number of directions that loses least, given the variances (d,) in decreasing order."""

    def lost(k: int) -> float:
        return float(DISTORTIONS[n_bits // k] * variances[:k].sum() + variances[k:].sum())

    return min(_divisions(n_bits, len(variances)), key=lost)
