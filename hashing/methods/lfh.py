"""Latent factor hashing."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
from scipy.special import expit

from ..blas import one_blas_thread
from ..families import LinearHash
from ..mapreduce import Array, Batch, Data, Sum
from ..statistics import Sample, keyed_signs, moments, multi_hot
from . import register


class LatentRows(NamedTuple):
    """The rows of a shard with their latent factors."""

    ids: Array  # (n,)
    x: Array  # (n, d)
    y: Array  # (n, c) multi-hot
    u: Array  # (n, n_bits) latent factors


def _rows(batch: Batch, n_bits: int, seed: int) -> LatentRows:
    return LatentRows(batch.ids, batch.x, multi_hot(batch), keyed_signs(batch.ids, n_bits, seed))


def _factors(rows: LatentRows) -> Batch:
    return Batch(rows.ids, rows.u, rows.y)


def posterior_gradient(u: Array, y: Array, columns: Batch, beta: float) -> Array:
    """Return the gradient (n, n_bits) of the log posterior with respect to u.

    The log posterior is sum_j (s_ij theta_ij - log(1 + exp theta_ij)) - |u_i|^2 / (2 beta), where
    theta_ij = u_i'u_j / 2 and j runs over the columns.
    """
    similar = y @ multi_hot(columns).T > 0
    slope: Array = (similar - expit(u @ columns.x.T / 2)) @ columns.x / 2 - u / beta
    return slope


def _step(rows: LatentRows, columns: Batch, beta: float) -> LatentRows:
    """Take one Newton step for each row, with a lower bound of the Hessian, so the objective never decreases."""
    bound = columns.x.T @ columns.x / 16 + np.eye(columns.x.shape[1]) / beta
    return rows._replace(u=rows.u + np.linalg.solve(bound, posterior_gradient(rows.u, rows.y, columns, beta).T).T)


def _cross(rows: LatentRows, mean: Array) -> tuple[Array]:
    return ((rows.x - mean).T @ rows.u,)


@register
@dataclass(frozen=True)
class LFH:
    """Latent factor hashing: latent factors whose inner products make the labels likely, then a linear regression.

    Maximises sum_ij log P(s_ij | u_i, u_j) - sum_i |u_i|^2 / (2 beta), where rows i and j share a label (s_ij = 1) with
    probability sigmoid(u_i'u_j / 2). Each step samples n_columns rows and updates all rows on their pairs with these.
    The hash function is the ridge regression from x to u. A row may have several labels. The paper samples n_bits
    columns per step; the values of its beta and number of steps are assumed.

    Summed over all rows: x'x and x'u for the regression. The factors u are stored with their shard; a step reads the
    factors and labels of the sampled rows.

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
