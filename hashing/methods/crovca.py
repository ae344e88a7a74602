"""CroVCA: cross-view code alignment, supervised."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import binary_cross_entropy, coding_rate, labelled, mean_of_rows, sgn
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class CroVCA(Deep):
    """Cross-view code alignment, supervised: the bits of a row are those of the mean output of its class in the batch.

    Each batch passes through the network twice, changed at random as in CIBHash. The target of a row is z = [p >= 0],
    with p the mean over the row's labels of the mean output of each label's rows, in both copies, without a gradient.
    The loss is the cross-entropy of sigmoid(u) and z, plus `mcr` times the coding rate term, mean over the copies:
    -(k + n) / (2 k n) logdet(I + k / (0.05 n) v'v) of n rows v of unit length, k = n_bits, which keeps bits apart. The
    hash layer ends with batch normalization, which keeps each bit balanced. Rows without labels have no target.

    The paper changes images by random crops, and trains for 5 epochs with AdamW.

    Published: tables that we have not seen, which rank by real-valued queries, so they are no Hamming MAP.

    Reference: Moummad, Zaher, Goeau & Joly, Image hashing via cross-view code alignment in the age of foundation
    models, arXiv 2510.27584, 2025.
    """

    mcr: float = 0.1

    copies = 2
    hash_layer = "normed"

    def loss(self, out: Outputs) -> Tensor:
        prototypes = out.y.T @ out.u / out.y.sum(0).clamp(min=1)[:, None]
        bits = (sgn(out.y @ prototypes) + 1) / 2
        alignment = mean_of_rows(binary_cross_entropy(out.u, bits), labelled(out.y)).mean()
        rates = [coding_rate(copy) for copy in out.u.chunk(self.copies)]
        return alignment + self.mcr * sum(rates) / self.copies
