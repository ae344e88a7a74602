"""ITDH: inductive transfer deep hashing."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import cross_entropy, likelihood, over_pairs, quantization, similarity
from ..deep.method import Deep, linear_layer
from . import register


@register
@dataclass(frozen=True)
class ITDH(Deep):
    """Inductive transfer deep hashing: cross-entropy of the classes, pairwise likelihood and quantization.

    The loss is the cross-entropy given u, plus `transfer` times the mean of -log p(s_ij | u_i'u_j / 2) over pairs, plus
    `eta` times the quantization error. Only the idea of the paper is known here: features learned on labelled source
    data are transferred to the target's hash functions by a pairwise similarity. The features are those of a pretrained
    network; the form of the terms is assumed.

    Reference: Ou, Yan, Ling, Liu & Liu, Inductive transfer deep hashing for image retrieval, ACM MM 2014.
    """

    transfer: float = 1.0
    eta: float = 0.1

    def head(self, dim: int, n_classes: int) -> Tensor:
        return linear_layer(self.n_bits, n_classes)

    def loss(self, out: Outputs) -> Tensor:
        pairs = over_pairs(likelihood(out.u @ out.u.T / 2, similarity(out.y)))
        return cross_entropy(out.head(out.u), out.y) + self.transfer * pairs + self.eta * quantization(out.u)
