"""DPSH: deep pairwise-supervised hashing."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import likelihood, over_pairs, quantization, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DPSH(Deep):
    """Deep pairwise-supervised hashing: pairwise likelihood of inner products, with quantization.

    Minimises -sum log p(s_ij | theta_ij) + eta sum |b_i - u_i|^2 over the pairs of a batch, with theta_ij = u_i'u_j / 2
    and b = sgn(u). The paper stores the outputs of all training rows, most of them stale, and pairs each batch with
    them; here the pairs are those of the batch of all workers together. The paper's eta of 10 to 100 applies to sums
    over pairs; here both terms are means.

    Reference: Li, Wang & Kang, Feature learning based deep supervised hashing with pairwise labels, IJCAI 2016.
    """

    optimizer: str = "sgd"  # Adam converges to the saddle of the likelihood at u = 0
    lr: float = 0.05
    eta: float = 0.1

    def loss(self, out: Outputs) -> Tensor:
        theta = out.u @ out.u.T / 2
        return over_pairs(likelihood(theta, similarity(out.y))) + self.eta * quantization(out.u)
