"""Supervised discrete hashing."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np

from ..anchors import anchor_width, rbf
from ..blas import one_blas_thread
from ..families import KernelHash
from ..mapreduce import Array, Batch, Data, Sum
from ..solvers import discrete_descent
from ..statistics import Sample, keyed_signs, one_hot, with_ones
from . import register


class AnchoredRows(NamedTuple):
    """The kernel features, labels and codes of a shard."""

    phi: Array  # (n, m + 1) float32, kernel features and a 1
    y: Array  # (n, c) one-hot
    b: Array  # (n, n_bits) codes


def _rows(batch: Batch, anchors: Array, gamma: float, n_bits: int, seed: int) -> AnchoredRows:
    phi = with_ones(rbf(batch.x.astype(np.float64), anchors, gamma))
    return AnchoredRows(phi.astype(np.float32), one_hot(batch), keyed_signs(batch.ids, n_bits, seed))


def _gram(rows: AnchoredRows) -> tuple[Array]:
    phi = rows.phi.astype(np.float64)
    return (phi.T @ phi,)


def _moments(rows: AnchoredRows) -> tuple[Array, Array, Array]:
    """Return B'B, B'Y and phi'B."""
    return rows.b.T @ rows.b, rows.b.T @ rows.y, rows.phi.T @ rows.b


def _codes(rows: AnchoredRows, weight: Array, projection: Array, nu: float, sweeps: int) -> AnchoredRows:
    """Update the codes B, by descent on |Y - BW|^2 + nu |B - F(X)|^2."""
    q = rows.y @ weight.T + nu * (rows.phi @ projection)
    return rows._replace(b=discrete_descent(rows.b, q, weight @ weight.T, sweeps))


@register
@dataclass(frozen=True)
class SDH:
    """Supervised discrete hashing: discrete codes from which a linear classifier predicts the labels.

    Minimises |Y - BW|^2 + lam |W|^2 + nu |B - F(X)|^2 over B in {-1, +1}, W and F. F is a ridge regression on Gaussian
    kernels of n_anchors rows, whose width sigma is `width` times the mean distance of a row to its nearest anchor; it
    becomes the hash function. W, F and B are solved in turn, B bit by bit.

    The random initial signs of B determine the code of each class. With few bits the codes of two classes may be close;
    FSDH avoids this.

    Summed over all rows: phi'phi once, then B'B, B'Y and phi'B in each iteration. phi and B are stored with their
    shard.

    Reference: Shen, Shen, Liu & Shen, Supervised discrete hashing, CVPR 2015, section 3.
    """

    supervised: ClassVar[bool] = True
    n_bits: int
    n_anchors: int = 1000
    width: float = field(default=1.0, metadata={"above": 0})
    n_iter: int = 5
    sweeps: int = 10
    lam: float = 1.0
    nu: float = 1e-5
    ridge: float = 1e-2
    seed: int = 0

    def fit(self, data: Data) -> KernelHash:
        anchors = data.reduce(Sample(self.n_anchors, self.seed), "anchors").x.astype(np.float64)
        gamma = 1 / (2 * (self.width * anchor_width(anchors)) ** 2)
        start = partial(_rows, anchors=anchors, gamma=gamma, n_bits=self.n_bits, seed=self.seed)
        rows = data.map_rows(start, "kernel features")
        (gram,) = rows.reduce(Sum(_gram), "gram matrix")
        for i in range(self.n_iter + 1):
            bb, by, phi_b = rows.reduce(Sum(_moments), f"regressions {i} of {self.n_iter}")
            with one_blas_thread():
                weight = np.linalg.solve(bb + self.lam * np.eye(self.n_bits), by)  # W (n_bits, c)
                projection = np.linalg.solve(gram + self.ridge * np.eye(len(gram)), phi_b)  # F = phi P
            if i < self.n_iter:
                step = partial(_codes, weight=weight, projection=projection, nu=self.nu, sweeps=self.sweeps)
                rows = rows.map_rows(step, f"codes {i + 1} of {self.n_iter}")
        return KernelHash(anchors, gamma, projection[:-1], -projection[-1])
