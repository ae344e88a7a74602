"""DMHOR: deep multimodal hashing with orthogonal regularization."""

from dataclasses import dataclass
from typing import ClassVar

from ..deep.contract import Outputs, Tensor
from ..deep.losses import quantization, soft_orthogonality
from ..deep.method import Deep, linear_layer
from . import register


@register
@dataclass(frozen=True)
class DMHOR(Deep):
    """Deep multimodal hashing with orthogonal regularization: an autoencoder of two views with one shared code.

    Minimises |x - d(s(F + G))|^2 + alone (|x - d(s(F))|^2 + |x - d(s(G))|^2) + orthogonal |W'W - I|^2 + eta
    (quantization of F and G), where F and G are the outputs for the two views, s is the sigmoid, d a linear decoder of
    both views, and W the weights of the hash layers. No labels are used.

    Reconstructing both views from the code of either one makes the views comparable. Each |.|^2 is averaged over the
    dimensions of each view, so that the wider view does not dominate. The coefficients are assumed, and layers start at
    random instead of from restricted Boltzmann machines.

    Reference: Wang, Cui, Ou & Zhu, Deep multimodal hashing with orthogonal regularization, IJCAI 2015.
    """

    first_view: int = 0
    alone: float = 1.0
    orthogonal: float = 0.01
    eta: float = 0.1

    supervised: ClassVar[bool] = False
    views: ClassVar[int] = 2

    def head(self, dim: int, n_classes: int) -> Tensor:
        return linear_layer(self.n_bits, dim)

    def loss(self, out: Outputs) -> Tensor:
        f, g = out.u.chunk(2, dim=1)
        x = out.network.scaled(out.x)
        errors = [(x - out.head(code.sigmoid())) ** 2 for code in (f + g, f, g)]
        away = [sum(view.mean() for view in out.network.halves(error)) for error in errors]
        weights = sum(soft_orthogonality(view.hash.weight) for view in out.network.views)
        quantized = self.eta * (quantization(f) + quantization(g))
        return away[0] + self.alone * (away[1] + away[2]) + self.orthogonal * weights / self.n_bits + quantized
