"""Locality-sensitive hashing by random hyperplanes."""

from dataclasses import dataclass

import numpy as np

from ..families import LinearHash
from ..mapreduce import Data
from ..statistics import moments
from . import register


@register
@dataclass(frozen=True)
class LSH:
    """Locality-sensitive hashing: random hyperplanes through the mean of the rows.

    Two rows differ in a bit with probability angle / pi, where the angle is measured at the mean. Only the mean is
    estimated from the data. Without it, non-negative data would fall on one side of most planes.

    Reference: Charikar, Similarity estimation techniques from rounding algorithms, STOC 2002, section 3.
    """

    n_bits: int
    seed: int = 0

    def fit(self, data: Data) -> LinearHash:
        mean = moments(data).mean
        weight = np.random.default_rng(self.seed).standard_normal((len(mean), self.n_bits))
        return LinearHash(weight, mean @ weight)
