"""Fast supervised discrete hashing."""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np

from ..anchors import anchor_width, rbf
from ..blas import one_blas_thread
from ..families import KernelHash
from ..mapreduce import Array, Batch, Data, Sum
from ..statistics import Sample, one_hot, with_ones
from . import register


def label_codes(n_classes: int, n_bits: int, seed: int) -> Array:
    """Return a code of -1 and +1 for each class, C (n_classes, n_bits), far from those of the other classes.

    If n_bits is the order of a Hadamard matrix, the codes are its rows, which differ in half of their bits. Otherwise
    columns of the next larger matrix are selected greedily: each time the one that best separates the nearest codes.
    """
    order = 1 << (max(n_classes, n_bits) - 1).bit_length()
    rows = np.random.default_rng(seed).permutation(order)[:n_classes]  # its first rows alone have many equal columns
    columns: Array = 1.0 - 2.0 * (np.bitwise_count(rows[:, None] & np.arange(order)) & 1)  # Sylvester's construction
    chosen: list[int] = []
    for _ in range(n_bits):
        alike = columns[:, chosen] @ columns[:, chosen].T
        np.fill_diagonal(alike, -np.inf)
        pull = np.exp((alike - alike.max(initial=-n_bits)) / 2)  # largest for the nearest codes
        score = np.einsum("ik,ik->k", columns, pull @ columns)
        score[chosen] = np.inf
        chosen.append(int(score.round(9).argmin()))
    codes: Array = columns[:, chosen]
    return codes


def _normal_equations(batch: Batch, anchors: Array, gamma: float) -> tuple[Array, Array]:
    """Return phi'phi (m + 1, m + 1) and phi'Y (m + 1, c), where phi is the kernel features and a 1."""
    phi = with_ones(rbf(batch.x.astype(np.float64), anchors, gamma))
    return phi.T @ phi, phi.T @ one_hot(batch)


@register
@dataclass(frozen=True)
class FSDH:
    """Fast supervised discrete hashing: kernel regression to a fixed code of each class.

    Minimises |CY - F(X)|^2 + ridge |P|^2, where C holds the code of each class and F is a linear function, with
    coefficients P, of Gaussian kernels of n_anchors rows. The kernel width sigma is `width` times the mean distance of
    a row to its nearest anchor.

    SDH alternates between codes and regressions. As its weight nu approaches 0, its best codes are the same for all
    rows of a class and orthogonal between classes, so rows of a Hadamard matrix are a solution in closed form. SDH uses
    1,000 anchors; 2,000 add 1 to 4 points of precision on MNIST, and the fit is no slower than that of SDH.

    Summed over all rows: phi'phi and phi'Y, in one pass.

    Reference: Koutaki, Shirai & Ambai, Fast supervised discrete hashing and its analysis, arXiv 1611.10017, 2016. The
    codes for lengths without a Hadamard matrix, or for more classes than bits, are chosen by our own rule.
    """

    supervised: ClassVar[bool] = True
    n_bits: int
    n_anchors: int = 2000
    width: float = field(default=1.0, metadata={"above": 0})
    ridge: float = 1e-2
    seed: int = 0

    def fit(self, data: Data) -> KernelHash:
        anchors = data.reduce(Sample(self.n_anchors, self.seed), "anchors").x.astype(np.float64)
        gamma = 1 / (2 * (self.width * anchor_width(anchors)) ** 2)
        gram, cross = data.reduce(Sum(partial(_normal_equations, anchors=anchors, gamma=gamma)), "normal equations")
        with one_blas_thread():
            codes = label_codes(cross.shape[1], self.n_bits, self.seed)
            weight = np.linalg.solve(gram + self.ridge * np.eye(len(gram)), cross @ codes)
        return KernelHash(anchors, gamma, weight[:-1], -weight[-1])
