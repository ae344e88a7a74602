"""NINH (DNNH): network-in-network hashing by triplets, divide and encode."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..deep.contract import Outputs, Tensor
from ..deep.losses import average, labelled_triplets, similarity, squared_output_distances
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class NINH(Deep):
    """max(0, margin + |F - F+|^2 - |F - F-|^2) over the triplets of a batch, F = p(sigmoid(u)) in [0, 1].

    Each bit sees its own slice of the features (divide and encode), and p is the paper's piece-wise threshold: 0 below
    0.5 - eps, 1 above 0.5 + eps, here a straight line between. A slope of `leak` is left outside, so that a triplet
    that is wrong and saturated learns too. The paper leaves eps open; its margin is 1.
    Reference: Lai, Pan, Liu & Yan, Simultaneous feature learning and hash coding with deep networks, CVPR 2015.
    """

    margin: float = 1.0
    eps: float = field(default=0.3, metadata={"above": 0})
    leak: float = 0.1

    hash_layer = "divide"

    def loss(self, out: Outputs) -> Tensor:
        f = out.u.sigmoid()
        steep = f.clamp(0.5 - self.eps, 0.5 + self.eps)
        f = (steep - 0.5) / (2 * self.eps) + 0.5 + self.leak * (f - steep)
        gaps = labelled_triplets(squared_output_distances(f), similarity(out.y))
        return average((self.margin + gaps).clamp(min=0))
