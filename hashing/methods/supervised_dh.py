"""Deep hashing for compact codes, with labels."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from ..families import NetworkHash
from ..mapreduce import Data
from ..perceptrons import (
    OutputSums,
    deep_hashing_widths,
    orthogonality,
    principal_network,
    principal_rows,
    spread_loss,
    train_network,
)
from ..solvers import bits_within_dim
from . import register


def class_loss(sums: OutputSums, variance: float, separation: float) -> tuple[float, OutputSums]:
    """Return spread_loss - variance / 2 separation tr(S_B - S_W), and its derivatives by the sums.

    S_B and S_W are the mean scatters (h_i - h_j)(h_i - h_j)' of pairs from two classes and from one class. Pairs are
    not enumerated: the traces of those of one class sum to 2 n_c q_c - 2 |s_c|^2, where s_c is the sum of h and q_c
    the sum of |h|^2 over the class, and likewise for all pairs.
    """
    value, by = spread_loss(sums, variance)
    n, counts = sums.n, sums.counts
    within = 2 * (counts @ sums.energy - (sums.classes**2).sum())
    every = 2 * (n * np.trace(sums.gram) - (sums.total**2).sum())
    similar = (counts**2).sum()
    factor = variance / 2 * separation
    apart = factor / max(n**2 - similar, 1.0)
    together = factor / max(similar - n, 1.0) + apart
    return value - apart * every + together * within, by._replace(
        gram=by.gram - 2 * n * apart * np.eye(len(sums.gram)),
        total=by.total + 4 * apart * sums.total,
        classes=-4 * together * sums.classes,
        energy=2 * together * counts,
    )


@register
@dataclass(frozen=True)
class SupervisedDH:
    """Supervised deep hashing: DH with a variance term that separates the classes.

    DH is a tanh network with outputs H near their signs and of large variance, and orthogonal weights. Here its loss is
    reduced by variance / 2 separation tr(S_B - S_W), where S_B and S_W are the mean scatters of pairs of rows from two
    classes and from one class. Each row has one class.

    The network starts from principal directions and is trained by L-BFGS. As in DH, each term is a mean. The paper's
    own weights are not known for certain; `separation` is 1, as reported.

    Summed over all rows: H'H, H'1, the sum of |H|, and for each class n, the sum of h and of |h|^2, then the gradient,
    in each evaluation.

    Reference: Liong, Lu, Wang, Moulin & Zhou, Deep hashing for compact binary codes learning, CVPR 2015, section 3.3.
    """

    n_bits: int
    variance: float = 10.0
    separation: float = 1.0
    orthogonal: float = 1e-3
    decay: float = 1e-3
    share: float = 0.95
    n_iter: int = 60
    supervised: ClassVar[bool] = True

    check_dim = bits_within_dim

    def fit(self, data: Data) -> NetworkHash:
        rows, inputs = principal_rows(data, self.n_bits, self.share, supervised=True, varying=True)
        network = principal_network(rows, deep_hashing_widths(self.n_bits), "tanh")
        loss = partial(class_loss, variance=self.variance, separation=self.separation)
        penalty = partial(orthogonality, orthogonal=self.orthogonal, decay=self.decay)
        return inputs.fold(train_network(rows, network, loss, penalty, self.n_iter))
