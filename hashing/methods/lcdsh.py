"""LCDSH: locality-constrained deep supervised hashing."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import likelihood, over_pairs, sgn, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class LCDSH(Deep):
    """Locality-constrained deep supervised hashing: pairwise likelihood, with codes as similar as their outputs.

    Minimises the mean over the pairs of a batch of -log p(s_ij | theta_ij) + eta (sigmoid(theta_ij) -
    sigmoid(b_i'b_j / 2))^2, with theta_ij = u_i'u_j / 2 and b = sgn(u), which has no gradient. The default eta is that
    of DeepHash-pytorch.

    Published mAP, AlexNet, 48 bits: 79.8 % on CIFAR-10 with 5,000 training rows, 83.4 % on NUS-WIDE with 21 labels
    (mAP@5000); both from DeepHash-pytorch, with the epoch selected on test queries.

    Reference: Zhu & Gao, Locality-constrained deep supervised hashing for image retrieval, IJCAI 2017.
    """

    eta: float = 3.0

    def loss(self, out: Outputs) -> Tensor:
        b, theta = sgn(out.u), out.u @ out.u.T / 2
        locality = (theta.sigmoid() - (b @ b.T / 2).sigmoid()) ** 2
        return over_pairs(likelihood(theta, similarity(out.y)) + self.eta * locality)
