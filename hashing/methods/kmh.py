"""K-means hashing."""

from dataclasses import dataclass
from functools import partial
from math import gcd

import numpy as np
from scipy.sparse import csr_array

from ..anchors import squared_centre_distances
from ..blas import one_blas_thread
from ..families import ProductHash
from ..mapreduce import Array, Batch, Data, Sum
from ..solvers import ROWS, balanced_partition, bits_within_dim, projected_rows, top_eigenvectors
from ..statistics import moments
from . import register


@register
@dataclass(frozen=True)
class KMH:
    """K-means hashing: k-means whose centres are as far apart as their codes.

    Minimises sum |x - c|^2 + lam sum_ij (|c_i - c_j| - d_h(i, j))^2 over the centres c; the index of a centre is its
    code, and d_h is the scaled square root of the Hamming distance of two codes. The bits are split into parts of
    n_part bits, and the principal directions are distributed over the parts so that their variances are balanced. The
    paper updates centre by centre; here all centres of a part are updated at once, by majorization.

    Summed over all rows: the moments and |v|, then the counts and sums of the cells in each iteration.

    Reference: He, Wen & Sun, K-means hashing, CVPR 2013; for the parts Ge et al., Optimized product quantization, 2013.
    """

    n_bits: int
    n_part: int = 0  # bits per part, a divisor of n_bits; 0: the largest of 8, 4, 2, 1 that divides
    lam: float = 10.0
    n_iter: int = 50
    n_inner: int = 4  # updates of the centres per iteration

    check_dim = bits_within_dim

    def __post_init__(self) -> None:
        if self.n_part and (self.n_part not in range(1, 13) or self.n_bits % self.n_part):
            raise ValueError(
                f"expected n_part from 1 to 12 that divides n_bits, found n_part={self.n_part}, n_bits={self.n_bits}"
            )

    def fit(self, data: Data) -> ProductHash:
        b = self.n_part or gcd(self.n_bits, 8)
        n, mean, cov = moments(data)
        basis = top_eigenvectors(cov, len(cov))
        values = np.einsum("ij,ij->j", basis, cov @ basis)
        parts = balanced_partition(values[values > 1e-9 * values[0]], self.n_bits // b)
        if (width := parts.shape[1]) < b:
            raise ValueError(f"expected n_bits <= the directions in which rows vary, found {width} for {b} bits")
        rotation = basis[:, parts.ravel()]
        projected = projected_rows(data, mean, rotation)
        spread = projected.reduce(Sum(_spread), "scale")[0].reshape(-1, width)
        scale = spread[:, :b].mean(axis=1)[:, None, None] / n
        bits = np.arange(2**b)[:, None] >> np.arange(b) & 1  # (2^b, b)
        centres = np.pad(scale * (2 * bits - 1), ((0, 0), (0, 0), (0, width - b)))  # the cells of PCA hashing
        targets = 2 * scale * np.sqrt((bits[:, None] != bits).sum(axis=2))  # d_h of each part
        step = partial(moved, lam=self.lam, n_inner=self.n_inner)
        for i in range(self.n_iter):
            counts, sums = projected.reduce(
                Sum(partial(_cells, centres=centres), ROWS), f"cells {i + 1} of {self.n_iter}"
            )
            centres = np.stack(list(map(step, centres, counts, sums, targets)))
        return ProductHash(mean, rotation, centres)


def _spread(batch: Batch) -> tuple[Array]:
    return (np.abs(batch.x).sum(axis=0, dtype=np.float64),)


def _cells(batch: Batch, centres: Array) -> tuple[Array, Array]:
    """Return the number and the sum of the rows nearest to each centre; centres are (parts, k, width)."""
    counts, sums = np.zeros(centres.shape[:2]), np.zeros_like(centres)
    ones, places = np.ones(len(batch.x), np.float32), np.arange(len(batch.x) + 1)
    for part, x in enumerate(np.split(batch.x, len(centres), axis=1)):
        c = centres[part].astype(np.float32)
        nearest = ((c**2).sum(axis=1) / 2 - x @ c.T).argmin(axis=1)
        member = csr_array((ones, nearest, places), (len(x), len(c)))
        counts[part], sums[part] = member.sum(axis=0), member.T @ x
    return counts, sums


def moved(centres: Array, counts: Array, sums: Array, target: Array, lam: float, n_inner: int) -> Array:
    """Return centres (k, width) that lower the objective for centred rows and fixed cells.

    |c_i - c_j| is bounded below by its tangent at the current centres. This leaves a quadratic with the minimum
    (mean_i + 2 lam sum_j p_j d_h(i, j) u_ij) / (1 + 2 lam), where p_j is the fraction of rows in cell j and u_ij the
    unit vector of c_i - c_j, or 0 for equal centres.
    """
    means = np.divide(sums, counts[:, None], out=centres.copy(), where=counts[:, None] > 0)
    with one_blas_thread():
        for _ in range(n_inner):
            gaps = np.sqrt(squared_centre_distances(centres, centres))
            pull = np.divide(target, gaps, out=np.zeros_like(gaps), where=gaps > 0) * (counts / counts.sum())
            centres = (means + 2 * lam * (pull.sum(axis=1)[:, None] * centres - pull @ centres)) / (1 + 2 * lam)
    return centres
