"""DRSCH: deep regularized similarity comparison hashing, bit-scalable."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import average, labelled_triplets, over_pairs, similarity, squared_output_distances
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DRSCH(Deep):
    """Deep regularized similarity comparison hashing: triplet hinge loss of weighted bits, with a Laplacian term.

    The loss is the mean over triplets of max(0, margin n_bits + |v - v+|^2 - |v - v-|^2), plus `beta` times the mean
    over pairs of s_ij |v_i - v_j|^2, where v = w * sigmoid(u) and w is a learned weight per bit. The second term is
    tr(VLV'), with L the Laplacian of the graph that links the rows of a batch that share a label.

    Bits of small |w| can be dropped to shorten codes. The paper weights Hamming distances by w^2; here all bits count
    alike. Its threshold of -5, lowered slowly, is here a fixed margin, given as a fraction of n_bits.

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
        gaps, counted = labelled_triplets(distances, s, out.labels)
        hinge = average((self.margin * self.n_bits + gaps).clamp(min=0), counted)
        return hinge + self.beta * over_pairs(s * distances)
