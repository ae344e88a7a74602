"""Supervised hashing by a binary deep neural network."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from ..functions import NetworkHash
from ..mapreduce import Data
from ..perceptrons import (
    Outputs,
    binary_loss,
    decay,
    hidden_widths,
    principal_network,
    principal_rows,
    train,
    turned,
    update_codes,
    whitening_units,
    with_code_layer,
    with_itq_codes,
)
from ..solvers import bits_within_dim
from ..statistics import moments
from . import register

REACH = 2.0  # the deviation of a unit's input at the start: far below it hardly bends, far above it is flat


def similarity_loss(sums: Outputs, similarity: float, fidelity: float, independence: float, balance: float):
    """similarity / 2n |HH' / n_bits - S|^2 + binary_loss, by S = 2YY' - 11': no matrix of n x n is ever made."""
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
    """Outputs H of a network d-h1-h2-n_bits whose inner products spell the classes, and which are near codes B,
    independent and balanced: similarity / 2n |HH' / n_bits - S|^2 + fidelity / 2n |H - B|^2 + independence / 2
    |H'H / n - I|^2 + balance / 2n |H'1|^2 + decay / 2 sum |W|^2, with S +1 in a class and -1 between two.

    From the codes of ITQ it alternates the network (L-BFGS on exact gradients over all rows), a rotation of H, which
    is not in the paper and changes nothing but |H - B|, and B = sgn(H). The paper's code holds S, 30,000 x 30,000,
    and runs 20 rounds of 400 iterations, until the map of held-out rows falls. Here few rounds, at most one iteration
    for 20 rows in all, and a decay far above the code's 1e-5 keep it from overfitting: it is said for 60,000 rows, and
    is in proportion to them, as the first term is. Units are tanh, sigmoids centred
    at 0: the same functions, learned in fewer iterations. The rest is the code's.

    Additive: H'H, H'1, H'Y, <H, B>, then the gradient, in each evaluation, over all rows. The codes B stay beside
    their shard. Each row has one class.

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
        rows, inputs = principal_rows(data, self.n_bits, self.share, supervised=True)
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
            network = train(rows, network, loss, partial(decay, weight=weight), n_iter, units)
            network = turned(rows, network)
            rows = rows.map_rows(partial(update_codes, network=network), "codes")
        return inputs.fold(network)
