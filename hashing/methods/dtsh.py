"""DTSH: deep supervised hashing with triplet labels."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import average, labelled_triplets, quantization, similarity, softplus
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DTSH(Deep):
    """Deep supervised hashing with triplet labels: triplet likelihood of inner products, with quantization.

    Minimises the mean over the triplets of a batch of -log sigmoid(theta_qp - theta_qn - margin n_bits), plus `eta`
    times the mean of |u - sgn(u)|^2, with theta_ij = u_i'u_j / 2. The paper's margin is n_bits / 2; here it is given as
    a fraction of n_bits.

    Reference: Wang, Shi & Kitani, Deep supervised hashing with triplet labels, ACCV 2016.
    """

    margin: float = 0.5
    eta: float = 0.1

    def loss(self, out: Outputs) -> Tensor:
        gaps, counted = labelled_triplets(out.u @ out.u.T / 2, similarity(out.y), out.labels)
        return average(softplus(self.margin * self.n_bits - gaps), counted) + self.eta * quantization(out.u)
