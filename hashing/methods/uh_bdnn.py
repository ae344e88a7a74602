"""Unsupervised hashing by a binary deep neural network."""

from dataclasses import dataclass
from functools import partial

from ..families import NetworkHash
from ..mapreduce import Array, Data, Sum
from ..perceptrons import (
    CodedRows,
    binary_loss,
    decay,
    hidden_widths,
    principal_network,
    principal_rows,
    reconstruction_moments,
    train_network,
    update_codes,
    with_code_layer,
    with_itq_codes,
)
from ..solvers import bits_within_dim, discrete_descent, ridge
from . import register


def restoring(rows: CodedRows, h: Array, weight: Array, bias: Array, fidelity: float) -> Array:
    """Return codes that lower |X - BW - c|^2 + fidelity |H - B|^2, by 10 sweeps from the current codes."""
    return discrete_descent(rows.codes, (rows.x - bias) @ weight.T + fidelity * h, weight @ weight.T, 10)


@register
@dataclass(frozen=True)
class UHBDNN:
    """Unsupervised binary deep neural network: codes from which a linear layer restores the rows.

    Minimises |X - BW - c|^2 / 2n + fidelity / 2n |H - B|^2 + independence / 2 |H'H / n - I|^2 + balance / 2n |H'1|^2 +
    decay / 2 sum |W|^2, where H are the outputs of a network d-h1-h2-n_bits and B in {-1, +1} its codes, so that the
    outputs are near the codes, independent and balanced.

    B starts from the codes of ITQ. The fit alternates W and c (solved exactly), B (discrete cyclic coordinate descent)
    and the network (L-BFGS on exact gradients over all rows). The paper runs 20 rounds of 400 iterations and may stop
    earlier on a validation set; here the defaults take minutes, and there is no validation set. The input is projected
    on the principal directions that hold `share` of the variance.

    Summed over all rows: [B 1]'[B 1] and [B 1]'X per round; H'H, H'1 and <H, B>, then the gradient, in each evaluation.
    The codes B are stored with their shard.

    Reference: Do, Doan & Cheung, Learning to hash with binary deep neural network, ECCV 2016, section 3.
    """

    n_bits: int
    decay: float = 1e-5
    fidelity: float = 5e-2
    independence: float = 1e-2
    balance: float = 5e-7
    share: float = 0.95
    n_outer: int = 5
    n_iter: int = 20
    seed: int = 0

    check_dim = bits_within_dim

    def fit(self, data: Data) -> NetworkHash:
        rows, inputs = principal_rows(data, self.n_bits, self.share)
        rows = with_itq_codes(rows, self.n_bits, self.seed)
        network = with_code_layer(rows, principal_network(rows, hidden_widths(self.n_bits), "sigmoid"))
        loss = partial(binary_loss, fidelity=self.fidelity, independence=self.independence, balance=self.balance)
        for _ in range(self.n_outer):
            network = train_network(rows, network, loss, partial(decay, weight=self.decay), self.n_iter)
            gram, cross = rows.reduce(Sum(reconstruction_moments), "output layer")
            weight, bias = ridge(gram, cross, self.decay)
            step = partial(restoring, weight=weight, bias=bias, fidelity=self.fidelity)
            rows = rows.map_rows(partial(update_codes, network=network, step=step), "codes")
        network = train_network(rows, network, loss, partial(decay, weight=self.decay), self.n_iter)
        return inputs.fold(network)
