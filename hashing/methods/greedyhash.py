"""GreedyHash: classification from binary codes."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import cross_entropy, cubic_quantization, straight_through
from ..deep.method import Deep, linear_layer
from . import register


@register
@dataclass(frozen=True)
class GreedyHash(Deep):
    """GreedyHash: classification from sgn(u) itself, whose gradient is passed to u as if sgn were the identity.

    Minimises the softmax cross-entropy of the classes given W sgn(u), plus `alpha` times the mean of | |u| - 1 |^3. The
    paper uses alpha 0.1 for CIFAR-10 and 1 for ImageNet. A row of several classes has targets of equal weights; the
    paper has rows of one class only. Not to be confused with its unsupervised variant.

    Published (AlexNet, 48 bits): MAP of CIFAR-10, 500 training rows of each class, 0.822 in the paper and 0.817 by
    another repository (DeepHash-pytorch); MAP@1000 of ImageNet100 0.688 and 0.678.

    Reference: Su, Zhang, Han & Tian, Greedy hash: towards fast optimization for accurate hash coding in CNN, NeurIPS
    2018.
    """

    alpha: float = 0.1

    def head(self, dim: int, n_classes: int) -> Tensor:
        return linear_layer(self.n_bits, n_classes, bias=False)

    def loss(self, out: Outputs) -> Tensor:
        return cross_entropy(out.head(straight_through(out.u)), out.y) + self.alpha * cubic_quantization(out.u)
