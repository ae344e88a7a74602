"""DLBHC: deep learning of binary hash codes."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import cross_entropy
from ..deep.method import Deep, linear_layer
from . import register


@register
@dataclass(frozen=True)
class DLBHC(Deep):
    """Deep learning of binary hash codes: softmax cross-entropy of the classes given a layer of n_bits sigmoid units.

    A bit is 1 where its unit is at least 0.5.

    Reference: Lin, Yang, Hsiao & Chen, Deep learning of binary hash codes for fast image retrieval, CVPRW 2015.
    """

    def head(self, dim: int, n_classes: int) -> Tensor:
        return linear_layer(self.n_bits, n_classes)

    def loss(self, out: Outputs) -> Tensor:
        return cross_entropy(out.head(out.u.sigmoid()), out.y)
