"""DMVH: deep learning to hash with multiple representations."""

from dataclasses import dataclass
from typing import ClassVar

from ..deep.contract import Outputs, Tensor
from ..deep.losses import contrastive, over_pairs, quantization, similarity, squared_output_distances
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DMVH(Deep):
    """Deep multi-view hashing: a contrastive loss of one code, shared by the encoders of two views.

    The code is F + G, the sum of the outputs for the two views. The loss is the contrastive loss of its squared
    distances over the pairs of a batch, plus `eta` times its quantization error. The paper's objective could not be
    verified. What is known: its network has hidden nodes for each view and shared ones; the shared nodes give the code
    and are trained to preserve similarity.

    Reference: Kang, Kim & Choi, Deep learning to hash with multiple representations, ICDM 2012.
    """

    first_view: int = 0
    eta: float = 0.1

    views: ClassVar[int] = 2

    def loss(self, out: Outputs) -> Tensor:
        f, g = out.u.chunk(2, dim=1)
        shared = f + g
        pairs = contrastive(squared_output_distances(shared), similarity(out.y), 2.0 * self.n_bits) / self.n_bits
        return over_pairs(pairs) + self.eta * quantization(shared)
