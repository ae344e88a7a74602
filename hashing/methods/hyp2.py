"""HyP2: hybrid proxy-pair loss."""

from dataclasses import dataclass

from ..deep import centres
from ..deep.contract import Outputs, Tensor
from ..deep.losses import average, cosine, similarity
from ..deep.method import Deep, linear_layer
from . import register


@register
@dataclass(frozen=True)
class HyP2(Deep):
    """HyP2 loss: learned proxies attract the rows of their classes, and rows of several labels that share none repel.

    Minimises the mean of 1 - cos(u_i, p_c) over the labels c of rows i, plus the mean of max(0, cos(u_i, p_c) - zeta)
    over the other classes, plus `beta` times the mean of max(0, cos(u_i, u_j) - zeta) over pairs of rows that have more
    than one label each and share none. So rows of several labels are not limited to codes of single classes.

    zeta = 1 - 2 d / n_bits, the cosine of codes at distance d. In the paper d is the best known least distance of a
    linear code, from a table; here it is the least distance of the centres of `hashing.deep.centres`.

    Published by the authors (AlexNet, 12, 24, 36 and 48 bits): MAP@1000 of Flickr25k 0.845, 0.881, 0.893, 0.901;
    MAP@5000 of NUS-WIDE 0.794, 0.822, 0.831, 0.843. In the same table HashNet has 0.791 to 0.848 and 0.643 to 0.750.

    Reference: Xu, Chai, Xu, Yuan, Fan & Wang, HyP2 loss: beyond hypersphere metric space for multi-label image
    retrieval, ACM Multimedia 2022.
    """

    beta: float = 0.5

    class_codes = True

    def head(self, dim: int, n_classes: int) -> Tensor:
        from torch import nn, tensor

        proxies = linear_layer(self.n_bits, n_classes, bias=False)
        nn.init.kaiming_normal_(proxies.weight, mode="fan_out")
        distance = centres.least_distance(centres.class_centres(n_classes, self.n_bits, self.seed))
        proxies.register_buffer("zeta", tensor(1 - 2 * distance / self.n_bits))
        return proxies

    def loss(self, out: Outputs) -> Tensor:
        zeta, several = out.head.zeta, (out.y.sum(1) > 1).to(out.y.dtype)
        to_proxies, pairs = cosine(out.u, out.head.weight), cosine(out.u)
        apart = several[:, None] * several[None, :] * (1 - similarity(out.y))
        attraction = average(1 - to_proxies, out.y)
        repulsion = average((to_proxies - zeta).clamp(min=0), 1 - out.y)
        return attraction + repulsion + self.beta * average((pairs - zeta).clamp(min=0), apart)
