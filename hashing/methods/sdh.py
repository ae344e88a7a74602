"""Supervised discrete hashing."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np

from ..anchors import anchor_width, rbf
from ..functions import KernelHash
from ..mapreduce import Array, Data, Sum, one_blas_thread
from ..solvers import discrete_descent
from ..statistics import Sample, keyed_signs, one_hot
from . import register


class AnchoredRows(NamedTuple):
    """What stays beside a shard."""

    phi: Array  # (n, m + 1) float32, kernel features and a 1
    y: Array  # (n, c) one-hot
    b: Array  # (n, n_bits) codes


def _rows(batch, anchors, gamma, n_bits, seed):
    phi = np.pad(rbf(batch.x.astype(np.float64), anchors, gamma), ((0, 0), (0, 1)), constant_values=1)
    return AnchoredRows(phi.astype(np.float32), one_hot(batch), keyed_signs(batch.ids, n_bits, seed))


def _gram(rows):
    phi = rows.phi.astype(np.float64)
    return (phi.T @ phi,)


def _moments(rows):
    """B'B, B'Y and phi'B."""
    return rows.b.T @ rows.b, rows.b.T @ rows.y, rows.phi.T @ rows.b


def _codes(rows, weight, projection, nu, sweeps):
    """The B-step: the codes of a lower |Y - BW|^2 + nu |B - F(X)|^2."""
    q = rows.y @ weight.T + nu * (rows.phi @ projection)
    return rows._replace(b=discrete_descent(rows.b, q, weight @ weight.T, sweeps))


@register
@dataclass(frozen=True)
class SDH:
    """Codes B from which the classes can be regressed: |Y - BW|^2 + lam |W|^2 + nu |B - F(X)|^2, with B kept discrete.

    F is a ridge regression from Gaussian kernels of n_anchors rows, whose width sigma is the mean distance of a row to
    its nearest anchor, times `width`. W, F and B are solved in turn, B bit by bit, and F is the hash function. The
    signs that B starts from decide the code of each class: in few bits those of two classes may be close, see FSDH.

    Additive: phi'phi once, then B'B, B'Y and phi'B in each iteration, over all rows; phi and B stay beside their shard.

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
