"""Binary reconstructive embeddings."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..anchors import anchor_width, rbf
from ..functions import KernelHash
from ..mapreduce import Array, Data, one_blas_thread
from ..statistics import Sample, one_hot
from . import register


def descend(u: Array, weight: Array, columns: Array, starts: Array, partners: Array, gain: Array) -> int:
    """Set each weight of one bit to its best value in turn, in place, and return the decrease of the cost.

    The bit is u >= 0, where u (n,) = weight (m,) @ columns (m, n). The pairs of row i are those with the rows
    partners[starts[i] : starts[i + 1]]; a pair costs `gain` more if the bit differs between its rows.
    """
    from ._bre_sweep import sweep

    decrease = 0
    for q, column in enumerate(columns):
        turns = np.abs(column) > 1e-12
        at = np.divide(-u, column, out=np.full(len(u), np.inf), where=turns)  # shifts at which bits flip
        first = np.where(np.where(turns, column < 0, u >= 0), np.float32(1), np.float32(-1))  # bits at shift -infinity
        shift, gained = sweep(at, np.argsort(at), first, starts, partners, gain)
        if gained > 0:
            u += shift * column
            weight[q] += shift
            decrease += gained
    return decrease


@register
@dataclass(frozen=True)
class BRE:
    """Binary reconstructive embeddings: codes whose Hamming distances reconstruct the distances between labels.

    Minimises the sum over pairs of (d_ij - t_ij)^2, where d is the Hamming distance and the target t is 0 within a
    class and n_bits between classes. A bit is the sign of a combination of centred Gaussian kernels of n_anchors rows
    (at most a tenth of the sample); the kernel width sigma is the mean distance of a row to its nearest anchor.
    Coordinate descent sets one coefficient after another to its best value, which a sort finds exactly, as the
    objective changes only where a row changes its bit.

    In the paper the kernel is linear, each bit has its own anchors, and passes run until convergence. Its unsupervised
    targets, Euclidean distances, are not implemented.

    Data read: a random sample of n_rows (the paper: 1,000), with n_pairs random partners for each.

    Reference: Kulis & Darrell, Learning to hash with binary reconstructive embeddings, NIPS 2009, section 3.
    """

    supervised: ClassVar[bool] = True
    n_bits: int
    n_rows: int = 20000
    n_anchors: int = 2000
    n_pairs: int = 15
    n_iter: int = 2
    seed: int = 0

    def fit(self, data: Data) -> KernelHash:
        sample = data.reduce(Sample(self.n_rows, self.seed), "rows")
        label, x = one_hot(sample).argmax(axis=1), sample.x.astype(np.float64)
        n, rng = len(x), np.random.default_rng(self.seed)
        anchors = x[rng.permutation(n)[: max(2, min(self.n_anchors, n // 10))]]
        gamma = 1 / (2 * anchor_width(anchors) ** 2)
        with one_blas_thread():
            phi = rbf(x, anchors, gamma)
        mean = phi.mean(axis=0)
        columns = np.ascontiguousarray((phi - mean).T)
        first = np.repeat(np.arange(n), self.n_pairs)
        pairs = np.stack(
            [first, (first + rng.integers(1, max(n, 2), len(first))) % n]
        )  # a row is never its own partner
        row, partners = np.concatenate([pairs, pairs[::-1]], axis=1)  # each pair in both orders
        order = np.argsort(row, kind="stable")
        row, partners = row[order], partners[order]
        starts = np.searchsorted(row, np.arange(n + 1))
        target = self.n_bits * (label[row] != label[partners])  # integers, so that ties are exact
        weight = 1e-3 * rng.standard_normal((self.n_bits, len(anchors)))
        u = np.stack([(w[:, None] * columns).sum(axis=0) for w in weight])  # (n_bits, n)
        error = target - sum((bit >= 0)[row] != (bit >= 0)[partners] for bit in u)
        for _ in range(self.n_iter):
            decrease, cost = 0, (error**2).sum() // 2
            for k in range(self.n_bits):
                error += (u[k] >= 0)[row] != (u[k] >= 0)[partners]  # residual of the other bits
                decrease += descend(u[k], weight[k], columns, starts, partners, (1 - 2 * error).astype(np.float32))
                error -= (u[k] >= 0)[row] != (u[k] >= 0)[partners]
            if decrease <= 1e-3 * cost:
                break
        return KernelHash(anchors, gamma, weight.T, weight @ mean)
