"""DRSCH: deep regularized similarity comparison hashing, bit-scalable."""

from __future__ import annotations

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import average, labelled_triplets, over_pairs, similarity, squared_output_distances
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DRSCH(Deep):
    """max(0, margin + |v - v+|^2 - |v - v-|^2) + beta s_ij |v_i - v_j|^2, v = w * sigmoid(u), w learned for each bit.

    The second term is tr(VLV') of the batch's graph of shared labels. Bits of small |w| are those to leave out where
    shorter codes are asked for; the paper weighs Hamming distances by w^2, here they count alike. Its threshold of -5,
    slowly lowered, is a fixed margin, a share of n_bits.
    Reference: Zhang, Lin, Zhang, Zuo & Zhang, Bit-scalable deep hashing with regularized similarity learning, IEEE TIP
    2015.
    """

    margin: float = 0.25
    beta: float = 0.001

    def head(self, dim: int, n_classes: int) -> Tensor:
        from torch import nn, ones

        return nn.ParameterList([nn.Parameter(ones(self.n_bits))])

    def loss(self, out: Outputs) -> Tensor:
        s, distances = similarity(out.y), squared_output_distances(out.head[0] * out.u.sigmoid())
        gaps = labelled_triplets(distances, s)
        return average((self.margin * self.n_bits + gaps).clamp(min=0)) + self.beta * over_pairs(s * distances)
