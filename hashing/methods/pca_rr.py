"""PCA hashing with a random rotation."""

from dataclasses import dataclass

import numpy as np

from ..families import LinearHash
from ..mapreduce import Data
from ..solvers import bits_within_dim, random_directions, top_eigenvectors
from ..statistics import moments
from . import register


@register
@dataclass(frozen=True)
class PCARR:
    """PCA hashing with a random rotation, which spreads the variance evenly over the bits.

    The bits are the signs of the centred rows on the n_bits directions of largest variance, after a random rotation.
    ITQ starts from this solution, which for long codes is often as good. There is no objective. On features of frozen
    networks, with --asymmetric, it is Hashing-Baseline (Moummad et al., arXiv 2509.14427, 2025).

    Summed over all rows: the moments, in one pass.

    Reference: Gong & Lazebnik, Iterative quantization: a Procrustean approach to learning binary codes, CVPR 2011,
    section 2.2, after Jégou, Douze, Schmid & Pérez, CVPR 2010.
    """

    n_bits: int
    seed: int = 0

    check_dim = bits_within_dim

    def fit(self, data: Data) -> LinearHash:
        _, mean, cov = moments(data)
        rotation = random_directions(self.n_bits, self.n_bits, np.random.default_rng(self.seed))
        weight = top_eigenvectors(cov, self.n_bits) @ rotation
        return LinearHash(weight, mean @ weight)
