"""DSRH: deep semantic ranking hashing, for rows of several labels."""

from __future__ import annotations

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import balance, ranking_hinge, shared_labels
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DSRH(Deep):
    """omega max(0, d_qi - d_qj + margin) over the triplets of a batch in which i shares more labels with q than j.

    omega = (2^r_i - 2^r_j) / Z, with Z the DCG of the batch in its best order: errors among the most relevant weigh
    most, as NDCG does. d = (n_bits - z'z) / 2 with z = 2 sigmoid(u) - 1, and balance of the bits besides: weight 1 in
    the paper, beside a sum over all triplets. Beside their mean, here, 1 holds all outputs at 0, where no triplet has a
    gradient. Networks named *_skip give the hash layer both fully connected layers, as in the paper.
    Reference: Zhao, Huang, Wang & Tan, Deep semantic ranking based hashing for multi-label image retrieval, CVPR 2015.
    """

    margin: float = 0.08  # of n_bits: 5 of 64 in the authors' code
    alpha: float = 0.01

    def loss(self, out: Outputs) -> Tensor:
        z, r = (out.u / 2).tanh(), shared_labels(out.y)
        distances = (self.n_bits - z @ z.T) / 2
        hinge, triplets = ranking_hinge(distances, r, self.margin * self.n_bits)
        places = (r.new_ones(len(r)).cumsum(0) + 1).log2()
        r = r - r.diagonal().diag_embed()  # a row is no answer to itself
        ideal = ((2**r - 1).sort(dim=1, descending=True).values / places).sum(1).clamp(min=1)
        return (hinge / ideal).sum() / triplets.clamp(min=1) + self.alpha * balance(z)
