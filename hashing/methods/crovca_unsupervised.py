"""CroVCA: cross-view code alignment, unsupervised."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import binary_cross_entropy, coding_rate, sgn
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class CroVCAUnsupervised(Deep):
    """Cross-view code alignment, unsupervised: the bits of a row are those of another random change of the row.

    Each batch passes through the network twice, changed at random as in CIBHash. The target of a row is z = [u' >= 0],
    with u' the output of its other copy, without a gradient. The loss is the cross-entropy of sigmoid(u) and z, plus
    `mcr` times the coding rate term of CroVCA, mean over the copies, which keeps bits apart. The hash layer ends with
    batch normalization, which keeps each bit balanced. No labels are used.

    The paper changes images by random crops, and trains for 5 epochs with AdamW.

    Published: tables that we have not seen, which rank by real-valued queries, so they are no Hamming MAP.

    Reference: Moummad, Zaher, Goeau & Joly, Image hashing via cross-view code alignment in the age of foundation
    models, arXiv 2510.27584, 2025.
    """

    mcr: float = 0.1

    supervised = False
    copies = 2
    hash_layer = "normed"

    def loss(self, out: Outputs) -> Tensor:
        other = out.u.roll(len(out.u) // 2, 0)
        alignment = binary_cross_entropy(out.u, (sgn(other) + 1) / 2).mean()
        rates = [coding_rate(copy) for copy in out.u.chunk(self.copies)]
        return alignment + self.mcr * sum(rates) / self.copies
