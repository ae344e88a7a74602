"""PRDH: pairwise relationship guided deep hashing of two views."""

from dataclasses import dataclass
from typing import ClassVar

from ..deep.contract import Outputs, Tensor
from ..deep.losses import balance, decorrelation, likelihood, over_pairs, sgn, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class PRDH(Deep):
    """Pairwise relationship guided deep hashing: pairwise likelihoods within and between two views of a row.

    F and G are the outputs for the two views. The loss is the negative log-likelihood of s_ij given F_i'G_j / 2,
    F_i'F_j / 2 and G_i'G_j / 2, plus `decorrelated` times the DeCov penalties of F and of G, plus `gamma` times (|B -
    F|^2 + |B - G|^2 + balance of both), with B = sgn(F + G). Terms are means instead of sums.

    A row holds its two views side by side, the first of `first_view` dimensions (0: half of them). A missing view is
    all zeros.

    Reference: Yang, Deng, Liu, Liu, Tao & Gao, Pairwise relationship guided deep hashing for cross-modal retrieval,
    AAAI 2017.
    """

    first_view: int = 0
    decorrelated: float = 0.01
    gamma: float = 0.1

    views: ClassVar[int] = 2

    def loss(self, out: Outputs) -> Tensor:
        f, g = out.u.chunk(2, dim=1)
        s, b = similarity(out.y), sgn(f + g)
        pairs = likelihood(f @ g.T / 2, s).mean()
        pairs = pairs + over_pairs(likelihood(f @ f.T / 2, s)) + over_pairs(likelihood(g @ g.T / 2, s))
        for half in (f, g):
            pairs = pairs + self.decorrelated * decorrelation(half) / self.n_bits
            pairs = pairs + self.gamma * (((b - half) ** 2).mean() + balance(half) / self.n_bits)
        return pairs
