"""NINH, also known as DNNH: network-in-network hashing."""

from dataclasses import dataclass, field

from ..deep.contract import Outputs, Tensor
from ..deep.losses import average, labelled_triplets, similarity, squared_output_distances
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class NINH(Deep):
    """Network-in-network hashing: triplet hinge loss of bits that each read their own slice of the features.

    Minimises the mean over the triplets of a batch of max(0, margin + |F - F+|^2 - |F - F-|^2), F = p(sigmoid(u)). Each
    bit reads its own slice of the features (divide and encode), and p is the paper's piecewise threshold: 0 below 0.5 -
    eps, 1 above 0.5 + eps, and here linear in between. Outside this interval p has the slope `leak`, so that saturated
    triplets in the wrong order still have a gradient. The paper does not give eps; its margin is 1.

    Reference: Lai, Pan, Liu & Yan, Simultaneous feature learning and hash coding with deep networks, CVPR 2015.
    """

    margin: float = 1.0
    eps: float = field(default=0.3, metadata={"above": 0})
    leak: float = 0.1

    hash_layer = "divide"

    def loss(self, out: Outputs) -> Tensor:
        f = out.u.sigmoid()
        middle = f.clamp(0.5 - self.eps, 0.5 + self.eps)
        f = (middle - 0.5) / (2 * self.eps) + 0.5 + self.leak * (f - middle)
        gaps, counted = labelled_triplets(squared_output_distances(f), similarity(out.y), out.labels)
        return average((self.margin + gaps).clamp(min=0), counted)
