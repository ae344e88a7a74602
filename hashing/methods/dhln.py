"""DHLN: a deep hashing learning network."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import cross_entropy
from ..deep.method import Deep, linear_layer
from . import register


@register
@dataclass(frozen=True)
class DHLN(Deep):
    """Deep hashing learning network: cross-entropy of the classes given sigmoid units, spread away from 0.5.

    The loss is the cross-entropy given n_bits units sigmoid(u), minus `spread` times the mean of (sigmoid(u) - 0.5)^2.
    The paper's losses could not be verified: its abstract mentions a compact sigmoid layer before the loss layer, and
    thresholds of 0.5. The second term is our assumption; without it the method is DLBHC.

    Reference: Zhong, Yang, Wang & Dong, A deep hashing learning network, arXiv 1507.04437, 2015.
    """

    spread: float = 0.5

    def head(self, dim: int, n_classes: int) -> Tensor:
        return linear_layer(self.n_bits, n_classes)

    def loss(self, out: Outputs) -> Tensor:
        units = out.u.sigmoid()
        return cross_entropy(out.head(units), out.y) - self.spread * ((units - 0.5) ** 2).mean()
