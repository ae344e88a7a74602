"""HashNet: hashing by continuation."""

from __future__ import annotations

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import likelihood, over_pairs, pair_weights, shared_labels, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class HashNet(Deep):
    """Weighted likelihood of s_ij given alpha g_i'g_j, g = tanh(beta u), where beta grows until tanh is nearly sgn.

    Similar pairs weigh |S| / |S1|, others |S| / |S0|, times the share of their labels that two rows have in common.
    beta = sqrt(1 + growth * progress); in the released code 1 + 0.005 t over 10,000 steps. alpha = 10 / n_bits.
    Reference: Cao, Long, Wang & Yu, HashNet: deep learning to hash by continuation, ICCV 2017.
    """

    growth: float = 50.0

    def loss(self, out: Outputs) -> Tensor:
        g = (out.u * (1 + self.growth * out.progress) ** 0.5).tanh()
        s, shared, counts = similarity(out.y), shared_labels(out.y), out.y.sum(1)
        union = counts[:, None] + counts[None, :] - shared
        weights = pair_weights(s) * (s * shared / union.clamp(min=1) + 1 - s)
        return over_pairs(weights * likelihood(10 / self.n_bits * g @ g.T, s))
