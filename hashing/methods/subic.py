"""SuBiC: supervised structured binary codes."""

from dataclasses import dataclass, field
from math import log, log2

from ..deep.contract import Outputs, Tensor
from ..deep.losses import bit_entropy, cross_entropy
from ..deep.method import Deep, linear_layer
from ..deep.regularizers import OF_OUTPUTS, weights_of
from . import register


@register
@dataclass(frozen=True)
class SuBiC(Deep):
    """Supervised structured binary codes: classification from one-hot blocks, with entropies that sharpen them.

    The loss is the cross-entropy of the classes given p, the softmax of each block of u, plus `sharp` times the mean
    entropy of p, minus `spread` times the entropy of the mean of p. A block has `units` bits, of which one is set. So a
    code has n_bits / units blocks and units^blocks values, and n_bits stored bits carry n_bits / units log2(units) bits
    of information, the paper's count. Two blocks differ in 2 bits or in none, so the Hamming distance is twice the
    number of different blocks.

    The paper ranks by real-valued queries and weights both entropies by 1, for large blocks on top of a trained
    network. Without a trained network, this weight sharpens blocks before they separate the classes, and some classes
    end up sharing all blocks but one. The softmax is of u itself; the paper's network has a rectifier before it.

    Reference: Jain, Zepeda, Perez & Gribonval, SuBiC: a supervised, structured binary code, ICCV 2017.
    """

    units: int = field(default=4, metadata={"least": 2})
    sharp: float = 0.02
    spread: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.units and self.n_bits % self.units:
            raise ValueError(f"expected n_bits divisible by units={self.units}, found n_bits={self.n_bits}")
        if OF_OUTPUTS.keys() & weights_of(self.regularizers).keys():
            raise ValueError(
                f"expected regularizers of weights, as bits are one-hot in each block, found {self.regularizers!r}"
            )

    @property
    def hash_layer(self) -> str:  # type: ignore[override]  # a constant in Deep, here it depends on units
        return f"blocks:{self.units}"

    def head(self, dim: int, n_classes: int) -> Tensor:
        return linear_layer(self.n_bits, n_classes)

    def loss(self, out: Outputs) -> Tensor:
        p = out.u.view(len(out.u), -1, self.units).softmax(2)
        most = p.shape[1] * log2(self.units)  # the largest entropy of a code, in bits
        sharp, spread = bit_entropy(p).sum(1).mean() / most, bit_entropy(p.mean(0)).sum() / most
        classes = cross_entropy(out.head(p.flatten(1)), out.y) / log(max(2, out.y.shape[1]))
        return classes + self.sharp * sharp - self.spread * spread
