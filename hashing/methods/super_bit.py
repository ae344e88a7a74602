"""Super-bit locality-sensitive hashing."""

from dataclasses import dataclass

import numpy as np

from ..functions import LinearHash
from ..mapreduce import Data, one_blas_thread
from ..statistics import moments
from . import register


@register
@dataclass(frozen=True)
class SuperBit:
    """Random hyperplanes in batches of `depth` orthogonal ones: angle / pi again, of a lower variance than LSH.

    Depth 0 stands for the deepest there is, min(n_bits, d); the last batch may be cut short.
    Additive: the mean, which the planes go through as in LSH; the paper takes the angle from the origin.

    Reference: Ji, Li, Yan, Zhang & Tian, Super-bit locality-sensitive hashing, NIPS 2012.
    """

    n_bits: int
    depth: int = 0
    seed: int = 0

    def check_dim(self, dim: int) -> None:
        if not 0 <= self.depth <= dim:
            raise ValueError(f"expected depth from 0 to d = {dim}, found depth = {self.depth}")

    def fit(self, data: Data) -> LinearHash:
        mean = moments(data).mean
        self.check_dim(len(mean))
        depth = self.depth or min(self.n_bits, len(mean))
        rng = np.random.default_rng(self.seed)
        batches = [_orthonormal(rng.standard_normal((len(mean), depth))) for _ in range(0, self.n_bits, depth)]
        weight = np.concatenate(batches, axis=1)[:, : self.n_bits]
        return LinearHash(weight, mean @ weight)


def _orthonormal(gaussian):
    """What Gram-Schmidt makes of the columns; LAPACK's are the same but for signs."""
    with one_blas_thread():
        q, r = np.linalg.qr(gaussian)
    return q * np.sign(np.diag(r))
