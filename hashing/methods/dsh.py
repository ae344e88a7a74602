"""DSH: deep supervised hashing."""

from __future__ import annotations

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import contrastive, l1_quantization, over_pairs, similarity, squared_output_distances
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DSH(Deep):
    """|u_i - u_j|^2 / 2 of similar pairs, max(m - |u_i - u_j|^2, 0) / 2 of others, and alpha | |u| - 1 |_1 of both rows
    of a pair.

    The margin m is 2 n_bits: codes of other rows differ in half of their bits. No tanh: the penalty alone draws u to
    -1 and +1. Not Density Sensitive Hashing, which has the same acronym.
    Reference: Liu, Wang, Shan & Chen, Deep supervised hashing for fast image retrieval, CVPR 2016.
    """

    alpha: float = 0.01

    def loss(self, out: Outputs) -> Tensor:
        pairs = contrastive(squared_output_distances(out.u), similarity(out.y), 2.0 * self.n_bits)
        return over_pairs(pairs) + 2 * self.alpha * self.n_bits * l1_quantization(out.u)
