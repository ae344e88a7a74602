"""SGH: stochastic generative hashing."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import binary_cross_entropy
from ..deep.method import Deep, linear_layer
from . import register


@register
@dataclass(frozen=True)
class SGH(Deep):
    """Stochastic generative hashing: a stochastic binary autoencoder of minimum description length.

    Minimises |x - bU|^2 / 2 + alpha log q(b | x) + decay, with each bit of b sampled from q(b | x) = sigmoid(Wx + c).
    No labels are used; x is standardized.

    The encoder is linear by default, as in the paper. b is 1 where p = sigmoid(u) is at least a uniform random number;
    the gradient with respect to u is p (1 - p) times the gradient with respect to b, the paper's distributional
    derivative. This is not scalable graph hashing, which has the same acronym.

    Reference: Dai, Guo, Kumar, He & Song, Stochastic generative hashing, ICML 2017.
    """

    network: str = "linear"
    lr: float = 1e-2
    batch_size: int = 500
    alpha: float = 1e-3
    beta: float = 1e-3

    supervised = False

    def head(self, dim: int, n_classes: int) -> Tensor:
        return linear_layer(self.n_bits, dim)

    def loss(self, out: Outputs) -> Tensor:
        p = out.u.sigmoid()
        b = p + ((p >= p.detach().new_empty(p.shape).uniform_()).to(p.dtype) - p).detach()
        away = ((out.network.scaled(out.x) - out.head(b)) ** 2).sum(1).mean() / 2
        length = binary_cross_entropy(out.u, b).sum(1).mean()
        decay = (out.head.weight**2).sum() + (out.network.hash.weight**2).sum()
        return away + self.alpha * length + self.beta / 2 * decay / len(out.x)
