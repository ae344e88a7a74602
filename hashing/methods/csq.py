"""CSQ: central similarity quantization."""

from dataclasses import dataclass

from ..deep import centres
from ..deep.contract import Outputs, Tensor
from ..deep.losses import binary_cross_entropy, labelled, mean_of_rows, quantization
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class CSQ(Deep):
    """Central similarity quantization: the rows of a class learn a fixed code, far from those of other classes.

    Minimises the mean over rows and bits of the cross-entropy of (v + 1) / 2 and (t + 1) / 2, plus `quantization` times
    the mean of (|v| - 1)^2, with v = tanh(u) and t the centre of the row's class. A row of several classes has the sign
    of the sum of their centres; a sum of 0 takes the bit of one random code, the same for all rows. Rows without labels
    have no target.

    The centres are those of `hashing.deep.centres`: shuffled rows of Hadamard matrices instead of the first ones, which
    repeat bits, and a search for other lengths than powers of two, where the released code draws codes until they are
    far enough from each other. `quantization` is that of the released code for ResNet.

    Published by the authors (ResNet50, the best epoch on the test queries), MAP@1000 of ImageNet100 at 16, 32 and 64
    bits: 0.851, 0.865, 0.873; MAP@5000 of COCO: 0.796, 0.838, 0.861.

    Reference: Yuan, Wang, Zhang, Tay, Jie, Liu & Feng, Central similarity quantization for efficient image and video
    retrieval, CVPR 2020.
    """

    hash_rate: float = 10.0  # the released code trains other layers at 0.01 to 0.05 of the rate
    quantization: float = 0.05

    class_codes = True

    def head(self, dim: int, n_classes: int) -> Tensor:
        return centres.head(n_classes, self.n_bits, self.seed)

    def loss(self, out: Outputs) -> Tensor:
        bits = (centres.targets(out.head, out.y) + 1) / 2
        likelihood = mean_of_rows(binary_cross_entropy(2 * out.u, bits), labelled(out.y)).mean()
        return likelihood + self.quantization * quantization(out.u.tanh())
