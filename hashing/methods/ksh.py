"""Supervised hashing with kernels."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np

from ..anchors import anchor_width, rbf
from ..bits import sgn
from ..blas import one_blas_thread
from ..families import KernelHash
from ..mapreduce import Array, Batch, Data, Sum
from ..solvers import ROWS, lbfgs, top_eigenvectors
from ..statistics import Sample, moments, one_hot, with_ones
from . import register


class KernelRows(NamedTuple):
    """The kernel features of a shard, and the factor Z of the residual."""

    phi: Array  # (n, m) float32, centred and whitened
    z: Array  # (n, c + 1 + bits so far) float32, the one-hot labels Y, a 1, and the bits in {-1, +1}


def _kernel_sums(batch: Batch, anchors: Array, gamma: float) -> tuple[int, Array, Array]:
    phi = rbf(batch.x.astype(np.float64), anchors, gamma)
    return len(phi), phi.sum(axis=0), phi.T @ phi


def _features(batch: Batch, anchors: Array, gamma: float, mean: Array, white: Array) -> KernelRows:
    z = with_ones(one_hot(batch))
    phi = (rbf(batch.x.astype(np.float64), anchors, gamma) - mean) @ white
    return KernelRows(phi.astype(np.float32), z.astype(np.float32))


def cost(rows: Data[KernelRows], d: Array, a: Array) -> tuple[float, Array]:
    """Return -y'Ry and its gradient at a (m,), for y = tanh(phi a / 2).

    R = Z diag(d) Z' is never formed, so nothing has n x n entries.
    """
    zy, slopes = rows.reduce(Sum(partial(_smooth, a=a), ROWS), "gradient")
    return -float(d @ zy**2), -slopes @ (d * zy)


def _smooth(rows: KernelRows, a: Array) -> tuple[Array, Array]:
    y = np.tanh(rows.phi @ a.astype(rows.phi.dtype) / 2)
    return y @ rows.z, ((rows.z * (1 - y**2)[:, None]).T @ rows.phi).T


def _add_bit(rows: KernelRows, a: Array) -> KernelRows:
    return rows._replace(z=np.column_stack([rows.z, sgn(rows.phi @ a.astype(rows.phi.dtype))]))


def _bit_sums(rows: KernelRows, a: Array) -> tuple[Array]:
    return (rows.z.T @ sgn(rows.phi @ a.astype(rows.phi.dtype)),)


@register
@dataclass(frozen=True)
class KSH:
    """Supervised hashing with kernels: codes whose inner products match the similarity of the labels.

    Minimises |BB' / n_bits - S|^2 over codes B, one bit after another, with S +1 within a class and -1 between classes.
    Each bit h is the sign of a combination of Gaussian kernels phi of n_anchors rows and maximises h'Rh, where R is the
    residual of n_bits S after the previous bits.

    The coefficients start from the top eigenvector of phi'R phi and are refined by n_iter steps of L-BFGS (the paper:
    accelerated gradient) with h smoothed to tanh; the better of start and end is selected. The features phi are
    whitened first.

    Summed over all rows: all statistics; S = 2YY' - 11', for one-hot labels Y, is never formed. The paper uses 2,000
    rows and their S; here all rows are used.

    Reference: Liu, Wang, Ji, Jiang & Chang, Supervised hashing with kernels, CVPR 2012, section 3.
    """

    supervised: ClassVar[bool] = True
    n_bits: int
    n_anchors: int = 300
    n_iter: int = 30
    seed: int = 0

    def fit(self, data: Data) -> KernelHash:
        anchors = data.reduce(Sample(self.n_anchors, self.seed), "anchors").x.astype(np.float64)
        anchor_width(anchors)  # raises ValueError if all anchors are equal
        _, mean, cov = moments(data)
        mean_squared = float(cov.trace() + ((anchors - mean) ** 2).sum(axis=1).mean())  # distance of rows to anchors
        gamma = 1 / (2 * mean_squared)
        n, total, gram = data.reduce(Sum(partial(_kernel_sums, anchors=anchors, gamma=gamma)), "kernel moments")
        mean = total / n
        cov = gram / n - np.outer(mean, mean)
        with one_blas_thread():
            white = np.linalg.inv(np.linalg.cholesky(cov + 1e-6 * cov.trace() / len(cov) * np.eye(len(cov)))).T
        rows = data.map_rows(partial(_features, anchors=anchors, gamma=gamma, mean=mean, white=white), "features")
        weight = np.empty((len(anchors), self.n_bits))
        for k in range(self.n_bits):
            _, cross = rows.reduce(
                Sum(partial(_smooth, a=np.zeros(len(anchors))), ROWS), f"bit {k + 1} of {self.n_bits}"
            )
            d = np.repeat([2.0 * self.n_bits, -self.n_bits, -1.0], [cross.shape[1] - 1 - k, 1, k]) / n**2
            with one_blas_thread():
                start = top_eigenvectors((cross * d) @ cross.T, 1)[:, 0]
            both = np.stack([start, lbfgs(partial(cost, rows, d), start, self.n_iter)], axis=1)
            (zh,) = rows.reduce(Sum(partial(_bit_sums, a=both)), "start and end")
            weight[:, k] = both[:, (d @ zh**2).argmax()]
            rows = rows.map_rows(partial(_add_bit, a=weight[:, k]), "bit")
        return KernelHash(anchors, gamma, white @ weight, mean @ white @ weight)
