"""Iterative quantization."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..bits import sgn
from ..functions import LinearHash
from ..mapreduce import Batch, Data, Sum
from ..solvers import procrustes, random_rotation, top_eigenvectors
from ..statistics import moments
from . import register


def _project(batch, mean, basis):
    """V, the centred rows on the principal directions."""
    return Batch(batch.ids, (batch.x - mean) @ basis)


def _alignment(batch, rotation):
    """B'V (n_bits, n_bits), with B = sgn(VR)."""
    return (sgn(batch.x @ rotation).T @ batch.x,)


@register
@dataclass(frozen=True)
class ITQ:
    """PCA, then the rotation R that minimises |B - VR|_F, by alternating B = sgn(VR) and Procrustes.

    Additive: the moments, then B'V in each iteration, over all rows; V stays beside its shard.

    Reference: Gong & Lazebnik, Iterative quantization: a Procrustean approach to learning binary codes, CVPR 2011.
    """

    n_bits: int
    n_iter: int = 50
    seed: int = 0

    def fit(self, data: Data) -> LinearHash:
        _, mean, cov = moments(data)
        basis = top_eigenvectors(cov, self.n_bits)  # (d, n_bits)
        rotation = random_rotation(self.n_bits, np.random.default_rng(self.seed))
        projected = data.map_rows(partial(_project, mean=mean, basis=basis), "projected rows")
        for i in range(self.n_iter):
            (c,) = projected.reduce(Sum(partial(_alignment, rotation=rotation)), f"rotation {i + 1} of {self.n_iter}")
            rotation = procrustes(c)
        weight = basis @ rotation
        return LinearHash(weight, mean @ weight)
