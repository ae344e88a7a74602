"""PRDH: pairwise relationship guided deep hashing, of two views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..deep.contract import Outputs, Tensor
from ..deep.losses import balance, decorrelation, likelihood, over_pairs, sgn, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class PRDH(Deep):
    """Likelihoods of s_ij given F_i'G_j, F_i'F_j and G_i'G_j (all / 2), F and G the outputs for the two views of a row,
    + decorrelated (DeCov of F and of G) + gamma (|B - F|^2 + |B - G|^2 + balance of both), B = sgn(F + G).

    A row is its two views side by side, the first of `first_view` dimensions (0: half); a view of zeros is missing.
    Means in place of sums.
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
