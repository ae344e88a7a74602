"""MDS: deep hashing with minimal-distance-separated hash centres."""

from dataclasses import dataclass

from ..deep import centres
from ..deep.contract import Outputs, Tensor
from ..deep.losses import average, cosine, quantization, similarity, softmax_binary_cross_entropy, softplus
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class MDS(Deep):
    """Minimal-distance-separated centres: rows near the fixed code of their class, and similar rows near each other.

    Minimises the binary cross-entropy, mean over the classes c, of the softmax of sqrt(n_bits) cos(u, t_c), plus `beta`
    times the mean over similar pairs of log(1 + exp((1 - cos(u_i, u_j)) / 2)), plus `quantization` times the mean of
    (|u| - 1)^2, with t_c the centre of class c.

    The paper moves centres apart by an Lp-box ADMM until their least distance exceeds the Gilbert-Varshamov bound; the
    centres of `hashing.deep.centres` do so too. It pairs each batch with stored outputs of all rows, from the tenth
    epoch on; here the pairs are those of the batch, in all epochs.

    Published: tables that we have not seen. The weights are those of the released code.

    Reference: Wang et al., Deep hashing with minimal-distance-separated hash centers, CVPR 2023.
    """

    beta: float = 1.0
    quantization: float = 1e-4

    class_codes = True

    def head(self, dim: int, n_classes: int) -> Tensor:
        return centres.head(n_classes, self.n_bits, self.seed)

    def loss(self, out: Outputs) -> Tensor:
        logits = self.n_bits**0.5 * cosine(out.u, out.head.centres)
        similar = similarity(out.y).fill_diagonal_(0)
        pairs = average(softplus((1 - cosine(out.u)) / 2), similar)
        classes = softmax_binary_cross_entropy(logits, out.y)
        return classes + self.beta * pairs + self.quantization * quantization(out.u)
