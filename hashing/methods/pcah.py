"""PCA hashing."""

from dataclasses import dataclass

from ..functions import LinearHash
from ..mapreduce import Data
from ..solvers import bits_within_dim, principal_directions
from ..statistics import moments
from . import register


@register
@dataclass(frozen=True)
class PCAH:
    """The signs of the n_bits directions of largest variance.

    Variance falls from bit to bit while each bit counts the same, so more bits may be worse: what ITQ repairs.
    Additive: the moments, one pass over all rows.

    Reference: Wang, Kumar & Chang, Semi-supervised hashing for scalable image retrieval, CVPR 2010, section 3.2.
    """

    n_bits: int

    check_dim = bits_within_dim

    def fit(self, data: Data) -> LinearHash:
        _, mean, cov = moments(data)
        weight = principal_directions(cov, self.n_bits)
        return LinearHash(weight, mean @ weight)
