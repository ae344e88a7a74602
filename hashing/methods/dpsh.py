"""DPSH: deep pairwise-supervised hashing."""

from __future__ import annotations

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import likelihood, over_pairs, quantization, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DPSH(Deep):
    """-sum log p(s_ij | theta_ij) + eta sum |b_i - u_i|^2, theta = u'u / 2, over the pairs of a batch.

    The paper keeps the outputs of all training rows, most of them stale, and compares a batch with them; a batch of all
    workers together has fresh pairs enough. Its eta of 10 to 100 is per sum of pairs: here both terms are means.
    Reference: Li, Wang & Kang, Feature learning based deep supervised hashing with pairwise labels, IJCAI 2016.
    """

    optimizer: str = "sgd"  # the likelihood has a saddle at u = 0, to which Adam falls
    lr: float = 0.05
    eta: float = 0.1

    def loss(self, out: Outputs) -> Tensor:
        theta = out.u @ out.u.T / 2
        return over_pairs(likelihood(theta, similarity(out.y))) + self.eta * quantization(out.u)
