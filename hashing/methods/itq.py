"""Iterative quantization."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..functions import LinearHash
from ..mapreduce import Batch, Data
from ..solvers import bits_within_dim, quantizing_rotation, top_eigenvectors
from ..statistics import moments
from . import register


def _project(batch, mean, basis):
    """V, the centred rows on the principal directions."""
    return Batch(batch.ids, ((batch.x - mean) @ basis).astype(np.float32))


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

    check_dim = bits_within_dim

    def fit(self, data: Data) -> LinearHash:
        _, mean, cov = moments(data)
        basis = top_eigenvectors(cov, self.n_bits)  # (d, n_bits)
        projected = data.map_rows(partial(_project, mean=mean, basis=basis), "projected rows")
        rotation = quantizing_rotation(projected, self.n_bits, self.n_iter, self.seed)
        weight = basis @ rotation
        return LinearHash(weight, mean @ weight)
