"""DSH: deep supervised hashing."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import contrastive, l1_quantization, over_pairs, similarity, squared_output_distances
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DSH(Deep):
    """Deep supervised hashing: contrastive loss of the outputs, with an L1 penalty that pulls them to -1 and +1.

    The loss of a pair is |u_i - u_j|^2 / 2 if it is similar and max(m - |u_i - u_j|^2, 0) / 2 otherwise, plus alpha |
    |u| - 1 |_1 of both rows. The margin m is 2 n_bits, at which the codes of dissimilar rows differ in half of their
    bits. There is no tanh. This is not density sensitive hashing, which has the same acronym.

    Reference: Liu, Wang, Shan & Chen, Deep supervised hashing for fast image retrieval, CVPR 2016.
    """

    alpha: float = 0.01

    def loss(self, out: Outputs) -> Tensor:
        pairs = contrastive(squared_output_distances(out.u), similarity(out.y), 2.0 * self.n_bits)
        return over_pairs(pairs) + 2 * self.alpha * self.n_bits * l1_quantization(out.u)
