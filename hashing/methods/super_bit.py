"""Super-bit locality-sensitive hashing."""

from dataclasses import dataclass

import numpy as np

from ..families import LinearHash
from ..mapreduce import Data
from ..solvers import random_directions
from ..statistics import moments
from . import register


@register
@dataclass(frozen=True)
class SuperBit:
    """Super-bit locality-sensitive hashing: random hyperplanes, orthogonal within batches of `depth`.

    As in LSH, two rows differ in a bit with probability angle / pi, but the Hamming distance has a lower variance.
    depth = 0 means the largest depth, min(n_bits, d). The last batch may be smaller.

    Summed over all rows: the mean, through which the planes pass, as in LSH; the paper's planes pass through the
    origin.

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
        batches = [random_directions(len(mean), depth, rng) for _ in range(0, self.n_bits, depth)]
        weight = np.concatenate(batches, axis=1)[:, : self.n_bits]
        return LinearHash(weight, mean @ weight)
