"""BiHalf: codes with balanced bits, by optimal transport of each bit's outputs."""

from dataclasses import dataclass

from ..deep import losses
from ..deep.contract import Outputs, Tensor
from ..deep.losses import cosine, over_pairs
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class BiHalf(Deep):
    """Bi-half layer: the larger half of each bit's outputs in a batch is +1, the rest -1; codes keep the rows' cosines.

    Minimises the mean over the pairs of a batch of (cos(b_i, b_j) - cos(x_i, x_j))^2, where b are the bi-half codes of
    u and x the standardized rows. The gradient g with respect to b passes to u as g + gamma (u - b) / (n n_bits), which
    is that of gamma / 2 times the mean of (u - b)^2. A fitted function encodes by sgn(u). No labels are used.

    The halves are those of the batch of all workers together; equal outputs are ordered by id. The paper pairs each row
    of half a batch with one of the other half; here all pairs count. Its features are those of VGG-16, and only the
    hash layer is trained.

    Published mAP@1000, 64 bits: on CIFAR-10 59.5 % (the paper) and 59.3 % (DeepHash-pytorch); on ImageNet-100, AlexNet,
    40.3 %, where ITQ has 40.2 % (cisip-FIRe).

    Reference: Li & van Gemert, Deep unsupervised image hashing by maximizing bit entropy, AAAI 2021.
    """

    network: str = "linear"
    gamma: float = 6.0

    supervised = False

    def loss(self, out: Outputs) -> Tensor:
        b = losses.bihalf(out.u, out.ids)
        away = ((out.u - b.detach()) ** 2).mean()
        return over_pairs((cosine(b) - cosine(out.network.scaled(out.x))) ** 2) + self.gamma / 2 * away
