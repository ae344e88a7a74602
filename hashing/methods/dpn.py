"""DPN: deep polarized network."""

from dataclasses import dataclass, field

from ..deep import centres
from ..deep.contract import Outputs, Tensor
from ..deep.losses import labelled, mean_of_rows
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DPN(Deep):
    """Deep polarized network: the outputs of a row agree with the fixed code of its class in each bit, by a margin.

    Minimises the mean over rows and bits of max(0, margin - u t), with t the centre of the row's class. Centres, rows
    of several classes and rows without labels are as in CSQ; the paper draws random centres. Here the centres stay
    fixed during training. Its ternary codes are not binary and not offered.

    Published by another repository (DeepHash-pytorch, AlexNet, 48 bits, the best epoch on the test queries): MAP of
    CIFAR-10 0.787, MAP@1000 of ImageNet100 0.688, MAP@5000 of NUS-WIDE 0.818.

    Reference: Fan, Ng, Ju, Zhang & Chan, Deep polarized network for supervised learning of accurate binary hashing
    codes, IJCAI 2020.
    """

    margin: float = field(default=1.0, metadata={"above": 0})

    class_codes = True

    def head(self, dim: int, n_classes: int) -> Tensor:
        return centres.head(n_classes, self.n_bits, self.seed)

    def loss(self, out: Outputs) -> Tensor:
        hinge = (self.margin - out.u * centres.targets(out.head, out.y)).clamp(min=0)
        return mean_of_rows(hinge, labelled(out.y)).mean()
