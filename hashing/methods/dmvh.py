"""DMVH: deep learning to hash with multiple representations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..deep.contract import Outputs, Tensor
from ..deep.losses import contrastive, over_pairs, quantization, similarity, squared_output_distances
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DMVH(Deep):
    """Contrastive loss of the rows' shared code F + G, two encoders of a view each, and quantization.

    The paper's objective could not be verified. What is known: hidden nodes of each view beside shared ones, of which
    the code is made, trained to preserve similarity. Here each view has its own encoder, and they share the code.
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
