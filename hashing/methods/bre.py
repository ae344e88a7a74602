"""Binary reconstructive embeddings."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..anchors import anchor_width, rbf
from ..blas import one_blas_thread
from ..families import KernelHash
from ..mapreduce import Array, Data
from ..statistics import Sample, one_hot
from . import register


def differ(u: Array, offsets: Array) -> Array:
    """Return whether the bit u (n,) >= 0 differs between rows i and (i + offset) % n, (p, n) bool."""
    bits = u >= 0
    return np.stack([bits != np.roll(bits, -offset) for offset in offsets])


@register
@dataclass(frozen=True)
class BRE:
    """Binary reconstructive embeddings: codes whose Hamming distances reconstruct the distances between labels.

    Minimises the sum over pairs of (d_ij - t_ij)^2, where d is the Hamming distance and the target t is 0 within a
    class and n_bits between classes. A bit is the sign of a combination of centred Gaussian kernels of n_anchors rows
    (at most a tenth of the sample); the kernel width sigma is the mean distance of a row to its nearest anchor.
    Coordinate descent sets one coefficient after another to its best value. A sort finds it exactly, as the objective
    changes only where a row changes its bit.

    In the paper the kernel is linear, each bit has its own anchors, and passes run until convergence. Its unsupervised
    targets, Euclidean distances, are not implemented.

    Data read: a random sample of n_rows (the paper: 1,000), in random order. Each row is paired with those at n_pairs
    random distances in this order, so it is in 2 n_pairs pairs, or in all pairs if there are few rows.

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
        from ._bre_sweep import descend

        sample, rng = data.reduce(Sample(self.n_rows, self.seed), "rows"), np.random.default_rng(self.seed)
        n = len(sample.ids)
        sample = sample.take(rng.permutation(n))
        label, x = one_hot(sample).argmax(axis=1), sample.x.astype(np.float32)
        anchors = x[: max(2, min(self.n_anchors, n // 10))]
        gamma = 1 / (2 * anchor_width(anchors.astype(np.float64)) ** 2)
        with one_blas_thread():
            phi = rbf(x, anchors, gamma)
        mean = phi.mean(axis=0, dtype=np.float64)
        columns = np.ascontiguousarray((phi - mean).T, np.float32)
        offsets = 1 + rng.permutation(n // 2)[: self.n_pairs]
        target = self.n_bits * np.stack([label != np.roll(label, -offset) for offset in offsets])
        weight = 1e-3 * rng.standard_normal((self.n_bits, len(anchors)))
        u = np.stack([(w[:, None] * columns).sum(axis=0) for w in weight])  # (n_bits, n)
        error = target - sum(differ(bit, offsets) for bit in u)
        for _ in range(self.n_iter):
            decrease, cost = 0, (error**2).sum()
            for k in range(self.n_bits):
                error += differ(u[k], offsets)  # residual of the other bits
                decrease += descend(u[k], weight[k], columns, offsets, (1 - 2 * error).astype(np.int16))
                error -= differ(u[k], offsets)
            if decrease <= 1e-3 * cost:
                break
        return KernelHash(anchors, gamma, weight.T, weight @ mean)
