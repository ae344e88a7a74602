"""DHN: deep hashing network, with its variants DHN-Q, DHN-E and DHN-B."""

from __future__ import annotations

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import likelihood, logcosh_quantization, over_pairs, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DHN(Deep):
    """-sum log p(s_ij | z_i'z_j) + quantization sum log cosh(|z| - 1), z = tanh(u), over the pairs of a batch.

    DHN-Q of the paper is quantization = 0, DHN-E is squared = True: (z_i'z_j / n_bits - s_ij)^2 in place of the
    likelihood, with s in {-1, +1}. DHN-B ranks by the real z = tanh(u), u what `project` gives.
    The paper chooses the weight by cross-validation among 1e-5 to 1e2.
    Reference: Zhu, Long, Wang & Cao, Deep hashing network for efficient similarity retrieval, AAAI 2016.
    """

    optimizer: str = "sgd"  # the likelihood has a saddle at u = 0, to which Adam falls
    lr: float = 0.05
    quantization: float = 0.1
    squared: bool = False

    def loss(self, out: Outputs) -> Tensor:
        z, s = out.u.tanh(), similarity(out.y)
        inner = z @ z.T
        pairs = (inner / self.n_bits - (2 * s - 1)) ** 2 if self.squared else likelihood(inner, s)
        return over_pairs(pairs) + self.quantization * logcosh_quantization(z)
