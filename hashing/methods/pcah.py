"""PCA hashing."""

from dataclasses import dataclass

from ..families import LinearHash
from ..mapreduce import Data
from ..solvers import bits_within_dim, principal_directions
from ..statistics import moments
from . import register


@register
@dataclass(frozen=True)
class PCAH:
    """PCA hashing: signs of the projections on the n_bits directions of largest variance.

    Maximises the variance tr(W'CW) over orthonormal W, for the covariance C. The variance decreases from bit to bit
    while all bits count alike in the Hamming distance, so more bits can make results worse; ITQ avoids this.

    Summed over all rows: the moments, in one pass.

    Reference: Wang, Kumar & Chang, Semi-supervised hashing for scalable image retrieval, CVPR 2010, section 3.2.
    """

    n_bits: int

    check_dim = bits_within_dim

    def fit(self, data: Data) -> LinearHash:
        _, mean, cov = moments(data)
        weight = principal_directions(cov, self.n_bits)
        return LinearHash(weight, mean @ weight)
