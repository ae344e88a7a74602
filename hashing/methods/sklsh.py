"""Locality-sensitive binary codes from shift-invariant kernels."""

from dataclasses import dataclass

import numpy as np

from ..functions import CosineHash
from ..mapreduce import Data
from ..neighbours.exact import NearestNeighbours
from ..statistics import Sample
from . import register

QUERIES, NEIGHBOURS = 500, 50


@register
@dataclass(frozen=True)
class SKLSH:
    """Random waves: the distance of two codes tends to a function of the kernel exp(-gamma |x - y|^2 / 2) alone.

    With too large a gamma all bits are noise, with too small a one they are constant. Gamma 0 stands for an estimate:
    1 over the square of the mean distance from a row to its 50th neighbour.
    Additive: the 50 nearest of all rows to 500 rows drawn by key; nothing else is asked of the data.

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


def _scale(data, sample):
    """The mean distance from a row of the sample to its 50th neighbour, or to its last one where there are fewer."""
    _, squared = data.reduce(NearestNeighbours(sample.x, sample.ids, NEIGHBOURS), "neighbours")
    scale = np.sqrt(np.where(np.isfinite(squared), squared, 0).max(axis=1)).mean()
    if not scale:
        raise ValueError(f"cannot estimate gamma: rows equal their {NEIGHBOURS} nearest neighbours; set gamma")
    return scale
