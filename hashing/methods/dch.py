"""DCH: deep Cauchy hashing."""

from dataclasses import dataclass, field

from ..deep.contract import Outputs, Tensor
from ..deep.losses import cauchy, cauchy_quantization, cosine, over_pairs, pair_weights, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DCH(Deep):
    """Deep Cauchy hashing: weighted Cauchy likelihood of pair similarities, with Cauchy quantization.

    The loss is the negative log-likelihood of s_ij given d_ij = n_bits / 2 (1 - cos(u_i, u_j)), plus `quantization`
    times the same Cauchy loss of the distance between |u| and a vector of ones. The Cauchy probability gamma / (gamma +
    d) falls fastest at small d, so similar rows are pulled into a small Hamming ball.

    Reference: Cao, Long, Liu & Wang, Deep Cauchy hashing for Hamming space retrieval, CVPR 2018.
    """

    gamma: float = field(default=20.0, metadata={"above": 0})
    quantization: float = 0.1

    def loss(self, out: Outputs) -> Tensor:
        s = similarity(out.y)
        distances = (self.n_bits / 2 * (1 - cosine(out.u))).clamp(min=0)
        pairs = over_pairs(pair_weights(s) * cauchy(distances, s, self.gamma))
        return pairs + self.quantization * cauchy_quantization(out.u, self.gamma)
