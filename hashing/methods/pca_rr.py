"""PCA hashing with a random rotation."""

from dataclasses import dataclass

import numpy as np

from ..functions import LinearHash
from ..mapreduce import Data
from ..solvers import bits_within_dim, random_rotation, top_eigenvectors
from ..statistics import moments
from . import register


@register
@dataclass(frozen=True)
class PCARR:
    """The directions of largest variance, turned by a random rotation, which spreads the variance over all bits.

    What ITQ starts from, and for long codes often as good. Additive: the moments, one pass over all rows.

    Reference: Gong & Lazebnik, Iterative quantization: a Procrustean approach to learning binary codes, CVPR 2011,
    section 2.2, after Jégou, Douze, Schmid & Pérez, CVPR 2010.
    """

    n_bits: int
    seed: int = 0

    check_dim = bits_within_dim

    def fit(self, data: Data) -> LinearHash:
        _, mean, cov = moments(data)
        weight = top_eigenvectors(cov, self.n_bits) @ random_rotation(self.n_bits, np.random.default_rng(self.seed))
        return LinearHash(weight, mean @ weight)
