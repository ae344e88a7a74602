"""HashNet: hashing by continuation."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import likelihood, over_pairs, pair_weights, shared_labels, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class HashNet(Deep):
    """HashNet: weighted pairwise likelihood of tanh(beta u), where beta grows until tanh is close to the sign.

    Minimises the weighted mean over the pairs of a batch of -log p(s_ij | alpha g_i'g_j), with g = tanh(beta u) and
    alpha = 10 / n_bits. Similar pairs have weight |S| / |S1|, the others |S| / |S0|, times the fraction of their labels
    that the two rows share. beta is sqrt(1 + growth * progress), with progress from 0 to 1 over the training; the
    released code uses 1 + 0.005 t over 10,000 steps t.

    Reference: Cao, Long, Wang & Yu, HashNet: deep learning to hash by continuation, ICCV 2017.
    """

    growth: float = 50.0

    def loss(self, out: Outputs) -> Tensor:
        g = (out.u * (1 + self.growth * out.progress) ** 0.5).tanh()
        s, shared, counts = similarity(out.y), shared_labels(out.y), out.y.sum(1)
        union = counts[:, None] + counts[None, :] - shared
        weights = pair_weights(s) * (s * shared / union.clamp(min=1) + 1 - s)
        return over_pairs(weights * likelihood(10 / self.n_bits * g @ g.T, s))
