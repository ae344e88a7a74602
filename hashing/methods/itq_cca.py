"""Iterative quantization with canonical correlation analysis."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from ..blas import one_blas_thread
from ..families import LinearHash
from ..mapreduce import Array, Batch, Data, Sum
from ..solvers import quantizing_rotation, top_eigenvectors
from ..statistics import moments, multi_hot
from . import register


@register
@dataclass(frozen=True)
class ITQCCA:
    """Iterative quantization with CCA: the directions most correlated with the labels, then the rotation of ITQ.

    Canonical correlation analysis solves C_xx^-1 C_xy C_yy^-1 C_yx w = r^2 w; each direction w is scaled by its
    correlation r, and the rotation R minimises |B - VR|_F for the projected rows V, as in ITQ. Labels of c classes give
    at most c directions; the rotation spreads them over the bits. A row may have any number of labels.

    Summed over all rows: the joint covariance of vectors and labels, then B'V in each iteration.

    Reference: Gong & Lazebnik, Iterative quantization: a Procrustean approach to learning binary codes, CVPR 2011,
    section 4.
    """

    supervised: ClassVar[bool] = True
    n_bits: int
    rho: float = 1e-4  # added to the variances of vectors and labels
    n_iter: int = 50
    seed: int = 0

    def fit(self, data: Data) -> LinearHash:
        n, mean, cov = moments(data)
        cross, both, counts = data.reduce(Sum(partial(_label_sums, mean=mean)), "labels")
        cov_y = both / n - np.outer(counts, counts) / n**2
        basis = _canonical(cov, cross / n, cov_y, self.rho)[:, : self.n_bits]
        basis = np.pad(basis, ((0, 0), (0, self.n_bits - basis.shape[1])))  # further bits have no correlated direction
        projected = data.map_rows(partial(_project, mean=mean, basis=basis), "projected rows")
        weight = basis @ quantizing_rotation(projected, self.n_bits, self.n_iter, self.seed)
        return LinearHash(weight, mean @ weight)


def _label_sums(batch: Batch, mean: Array) -> tuple[Array, Array, Array]:
    """Return X'Y for the centred rows X, Y'Y, and Y'1."""
    y = multi_hot(batch)
    return (batch.x - mean).T @ y, y.T @ y, y.sum(axis=0)


def _canonical(cov: Array, cross: Array, cov_y: Array, rho: float) -> Array:
    """Return the solutions w (d, c) of C_xx^-1 C_xy C_yy^-1 C_yx w = r^2 w with w'C_xx w = r^2, by decreasing r.

    With U'C_yy U = I, an eigenvector z of (C_xy U)' C_xx^-1 (C_xy U), a matrix of only (c, c), gives
    w = C_xx^-1 C_xy U z.
    """
    with one_blas_thread():
        whitened = np.linalg.solve(np.linalg.cholesky(cov_y + rho * np.eye(len(cov_y))), cross.T).T  # C_xy U
        regression = np.linalg.solve(cov + rho * np.eye(len(cov)), whitened)
        directions: Array = regression @ top_eigenvectors(whitened.T @ regression, len(cov_y))
    return directions


def _project(batch: Batch, mean: Array, basis: Array) -> Batch:
    return Batch(batch.ids, (batch.x - mean) @ basis)
