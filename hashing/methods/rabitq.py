"""RaBitQ and extended RaBitQ."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..mapreduce import Data
from ..quantizers.contract import planes_within
from ..quantizers.rabitq import RaBitQHash
from ..solvers import random_directions, top_eigenvectors
from ..statistics import moments
from . import register

MOST = 8


@register
@dataclass(frozen=True)
class RaBitQ:
    """RaBitQ: 1 to 8 bits for each coordinate of the centred and randomly rotated rows, so n_bits = d, 2 d, …, 8 d.

    With n_bits < d, there is one bit for each of the n_bits directions of largest variance, randomly rotated, as in
    pca_rr. Estimates are then those of the distances between projections on these directions.

    Rows also store two float16 correctives, 4 bytes. From them, the code and a query rounded to 4 bits a coordinate,
    search estimates the distances by the dataset's metric; the estimate of an inner product is unbiased over random
    rotations. Hamming distances of the bits rank like those of super_bit with n_bits = d.

    Summed over all rows: the mean and the variance, and for n_bits < d the covariance. The paper's method subtracts the
    centres of an inverted file instead, and rounds queries at random; here as in Faiss, they are rounded to the nearest
    level. The first bit of all coordinates comes first in a code, then the second and so on.

    Reference: Gao & Long, RaBitQ: quantizing high-dimensional vectors with a theoretical error bound for approximate
    nearest neighbor search, SIGMOD 2024; with more bits: Gao et al., Practical and asymptotically optimal quantization
    of high-dimensional vectors in Euclidean space for approximate nearest neighbor search, SIGMOD 2025.
    """

    n_bits: int
    seed: int = 0
    columns: ClassVar[tuple[str, ...]] = RaBitQHash.columns

    def check_dim(self, dim: int) -> None:
        if not 0 < self.n_bits < dim:
            planes_within(self, dim, MOST, f"from 1 to {dim}, or ")

    def fit(self, data: Data) -> RaBitQHash:
        found = moments(data, cov_above=self.n_bits)
        self.check_dim(d := len(found.mean))
        k = min(d, self.n_bits)
        rotation = random_directions(k, k, np.random.default_rng(self.seed))
        if k < d:
            rotation = top_eigenvectors(found.cov, k) @ rotation
        return RaBitQHash.fitted(rotation, found, self.n_bits // k, data.metric)
