"""Supervised hashing by a binary deep neural network."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from ..families import NetworkHash
from ..mapreduce import Data
from ..perceptrons import (
    OutputSums,
    binary_loss,
    decay,
    hidden_widths,
    principal_network,
    principal_rows,
    rotated,
    train_network,
    update_codes,
    whitening_units,
    with_code_layer,
    with_itq_codes,
)
from ..solvers import bits_within_dim
from ..statistics import moments
from . import register

REACH = 2.0  # initial standard deviation of the input of a unit: much less is nearly linear, much more saturates


def similarity_loss(
    sums: OutputSums, similarity: float, fidelity: float, independence: float, balance: float
) -> tuple[float, OutputSums]:
    """Return similarity / 2n |HH' / n_bits - S|^2 + binary_loss, and its derivatives by the sums.

    S = 2YY' - 11', so that no n x n matrix is formed.
    """
    value, by = binary_loss(sums, fidelity, independence, balance)
    n, k = sums.n, len(sums.gram)
    same = 2 * (sums.classes**2).sum() - (sums.total**2).sum()  # tr(H'SH)
    factor = similarity / (2 * n)
    value += factor * ((sums.gram**2).sum() / k**2 - 2 / k * same + n**2)
    return value, by._replace(
        gram=by.gram + factor * 2 / k**2 * sums.gram,
        total=by.total + factor * 4 / k * sums.total,
        classes=-factor * 8 / k * sums.classes,
    )


@register
@dataclass(frozen=True)
class SHBDNN:
    """Supervised binary deep neural network: outputs near binary codes, whose inner products give the classes.

    Minimises similarity / 2n |HH' / n_bits - S|^2 + fidelity / 2n |H - B|^2 + independence / 2 |H'H / n - I|^2 +
    balance / 2n |H'1|^2 + decay / 2 sum |W|^2, where H are the outputs of a network d-h1-h2-n_bits, B its codes, and S
    is +1 within a class and -1 between classes. Each row has one class.

    B starts from the codes of ITQ. The fit alternates the network (L-BFGS on exact gradients over all rows), a rotation
    of H, and B = sgn(H). The rotation is not in the paper; it changes only |H - B|.

    The authors' code stores S, 30,000 x 30,000, and runs 20 rounds of 400 iterations until the mean average precision
    on held-out rows falls. Here overfitting is limited by few rounds, at most one iteration per 20 rows in total, and a
    decay far above the 1e-5 of that code. `decay` applies to 60,000 rows and is scaled in proportion to n, as the first
    term grows with n. Units are tanh, which is a sigmoid centred at 0: it represents the same functions and needs fewer
    iterations. All other values are those of the authors' code.

    Summed over all rows: H'H, H'1, H'Y and <H, B>, then the gradient, in each evaluation. The codes B are stored with
    their shard.

    Reference: Do, Doan & Cheung, Learning to hash with binary deep neural network, ECCV 2016, section 4.
    """

    n_bits: int
    decay: float = 5e-2
    similarity: float = 1e-2
    fidelity: float = 5e-2
    independence: float = 1e-2
    balance: float = 5e-7
    share: float = 0.95
    n_outer: int = 3
    n_iter: int = 60
    seed: int = 0
    supervised: ClassVar[bool] = True

    check_dim = bits_within_dim

    def fit(self, data: Data) -> NetworkHash:
        rows, inputs = principal_rows(data, self.n_bits, self.share, supervised=True, dtype=np.float32)
        rows = with_itq_codes(rows, self.n_bits, self.seed)
        network = with_code_layer(rows, principal_network(rows, hidden_widths(self.n_bits), "tanh", REACH))
        loss = partial(
            similarity_loss, similarity=self.similarity, fidelity=self.fidelity,
            independence=self.independence, balance=self.balance,
        )  # fmt: skip
        units = whitening_units(rows, network)
        n = moments(rows).n
        n_iter, weight = min(self.n_iter, n // (20 * self.n_outer) + 1), self.decay * n / 60_000
        for _ in range(self.n_outer):
            network = train_network(rows, network, loss, partial(decay, weight=weight), n_iter, units)
            network = rotated(rows, network)
            rows = rows.map_rows(partial(update_codes, network=network), "codes")
        return inputs.fold(network)
