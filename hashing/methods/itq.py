"""Iterative quantization."""

from dataclasses import dataclass

from ..families import LinearHash
from ..mapreduce import Data
from ..solvers import bits_within_dim, projected_rows, quantizing_rotation, top_eigenvectors
from ..statistics import moments
from . import register


@register
@dataclass(frozen=True)
class ITQ:
    """Iterative quantization: PCA, then the rotation that brings the projected rows closest to their codes.

    Minimises |B - VR|_F over codes B in {-1, +1} and rotations R, where V are the centred rows on the first n_bits
    principal directions, by alternating B = sgn(VR) with the orthogonal Procrustes solution for R.

    Summed over all rows: the moments, then B'V in each iteration. V is stored with its shard.

    Reference: Gong & Lazebnik, Iterative quantization: a Procrustean approach to learning binary codes, CVPR 2011.
    """

    n_bits: int
    n_iter: int = 50
    seed: int = 0

    check_dim = bits_within_dim

    def fit(self, data: Data) -> LinearHash:
        _, mean, cov = moments(data)
        basis = top_eigenvectors(cov, self.n_bits)  # (d, n_bits)
        projected = projected_rows(data, mean, basis)
        rotation = quantizing_rotation(projected, self.n_bits, self.n_iter, self.seed)
        weight = basis @ rotation
        return LinearHash(weight, mean @ weight)
