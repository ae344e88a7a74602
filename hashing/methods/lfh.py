"""Latent factor hashing."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
from scipy.special import expit

from ..functions import LinearHash
from ..mapreduce import Array, Batch, Data, Sum, one_blas_thread
from ..statistics import Sample, keyed_signs, moments
from . import register


class LatentRows(NamedTuple):
    """What stays beside a shard."""

    ids: Array  # (n,)
    x: Array  # (n, d)
    y: Array  # (n, c) multi-hot
    u: Array  # (n, n_bits) latent factors


def _rows(batch, n_bits, seed):
    if batch.y is None:
        raise ValueError("expected rows with labels, which a supervised method learns from, found rows without")
    y = batch.y.astype(np.float64)
    return LatentRows(batch.ids, batch.x, y, keyed_signs(batch.ids, n_bits, seed))


def _factors(rows):
    return Batch(rows.ids, rows.u, rows.y)


def gradient(u, y, columns, beta):
    """Of sum_j (s_ij theta_ij - log(1 + exp theta_ij)) - |u_i|^2 / (2 beta), theta_ij = u_i'u_j / 2, j the columns."""
    similar = y @ columns.y.T > 0
    return (similar - expit(u @ columns.x.T / 2)) @ columns.x / 2 - u / beta


def _step(rows, columns, beta):
    """One Newton step of each row, the Hessian replaced by its lower bound: the likelihood never falls."""
    bound = columns.x.T @ columns.x / 16 + np.eye(columns.x.shape[1]) / beta
    return rows._replace(u=rows.u + np.linalg.solve(bound, gradient(rows.u, rows.y, columns, beta).T).T)


def _cross(rows, mean):
    return ((rows.x - mean).T @ rows.u,)


@register
@dataclass(frozen=True)
class LFH:
    """Latent factors u under which labels are likely: P(i and j share a label) = sigmoid(u_i'u_j / 2), |u|^2 penalized.

    Each step draws n_columns rows and moves all rows uphill on their pairs with those. The hash function is the ridge
    regression from x to u. A row may have several labels. The paper draws n_bits columns; its beta and number of steps
    are assumed.

    Additive: u stays beside its shard; the steps need the drawn rows' u and labels, the regression x'x and x'u.

    Reference: Zhang, Zhang, Li & Guo, Supervised hashing with latent factor models, SIGIR 2014, sections 3.2 to 3.4.
    """

    supervised: ClassVar[bool] = True
    n_bits: int
    n_columns: int = 100
    n_iter: int = 50
    beta: float = field(default=30.0, metadata={"above": 0})
    ridge: float = 1.0
    seed: int = 0

    def fit(self, data: Data) -> LinearHash:
        n, mean, cov = moments(data)
        rows = data.map_rows(partial(_rows, n_bits=self.n_bits, seed=self.seed), "first factors")
        for i in range(self.n_iter):
            columns = rows.map_rows(_factors).reduce(Sample(self.n_columns, self.seed + i), "columns")
            columns = columns._replace(x=columns.x.astype(np.float64))
            rows = rows.map_rows(partial(_step, columns=columns, beta=self.beta), f"factors {i + 1} of {self.n_iter}")
        (cross,) = rows.reduce(Sum(partial(_cross, mean=mean)), "regression")
        with one_blas_thread():
            weight = np.linalg.solve(n * cov + self.ridge * np.eye(len(cov)), cross)
        return LinearHash(weight, mean @ weight)
