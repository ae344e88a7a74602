"""Locality-sensitive binary codes from shift-invariant kernels."""

from dataclasses import dataclass

import numpy as np

from ..families import CosineHash
from ..mapreduce import Batch, Data
from ..neighbours.exact import NearestNeighbours
from ..statistics import Sample
from . import register

QUERIES, NEIGHBOURS = 500, 50


@register
@dataclass(frozen=True)
class SKLSH:
    """Locality-sensitive binary codes from shift-invariant kernels: signs of random cosine waves.

    The expected Hamming distance of two codes depends only on the kernel exp(-gamma |x - y|^2 / 2). If gamma is too
    large all bits are noise, and if it is too small they are constant. gamma = 0 estimates it as 1 / s^2, where s is
    the mean distance of a row to its 50th nearest neighbour.

    Data read: for the estimate, the 50 nearest of all rows to a random sample of 500 rows.

    Reference: Raginsky & Lazebnik, Locality-sensitive binary codes from shift-invariant kernels, NIPS 2009.
    """

    n_bits: int
    gamma: float = 0.0
    seed: int = 0

    def fit(self, data: Data) -> CosineHash:
        sample = data.reduce(Sample(QUERIES, self.seed), "sample")
        gamma = self.gamma or 1 / _scale(data, sample) ** 2
        rng = np.random.default_rng(self.seed)
        weight = np.sqrt(gamma) * rng.standard_normal((sample.x.shape[1], self.n_bits))
        phase = rng.uniform(0, 2 * np.pi, self.n_bits)
        return CosineHash(weight, phase, rng.uniform(-1, 1, self.n_bits))


def _scale(data: Data, sample: Batch) -> float:
    """Return the mean distance from a row of the sample to its 50th nearest neighbour, or its last if it has fewer."""
    _, squared = data.reduce(NearestNeighbours(sample.x, sample.ids, NEIGHBOURS), "neighbours")
    scale = float(np.sqrt(np.where(np.isfinite(squared), squared, 0).max(axis=1)).mean())
    if not scale:
        raise ValueError(f"cannot estimate gamma: rows equal their {NEIGHBOURS} nearest neighbours; set gamma")
    return scale
