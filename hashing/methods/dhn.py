"""DHN: deep hashing network, with its variants DHN-Q, DHN-E and DHN-B."""

from dataclasses import dataclass

from ..deep.contract import Outputs, Tensor
from ..deep.losses import likelihood, logcosh_quantization, over_pairs, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DHN(Deep):
    """Deep hashing network: pairwise likelihood of inner products, with log-cosh quantization.

    Minimises the mean over the pairs of a batch of -log p(s_ij | z_i'z_j), plus `quantization` times the mean of log
    cosh(|z| - 1), z = tanh(u). The paper's variants: DHN-Q has quantization = 0; DHN-E has squared = True, which
    replaces the likelihood by (z_i'z_j / n_bits - s_ij)^2 with s in {-1, +1}; DHN-B ranks by the real-valued z =
    tanh(u), where u is the result of `project`. The paper selects the weight by cross-validation among 1e-5 to 1e2.

    Reference: Zhu, Long, Wang & Cao, Deep hashing network for efficient similarity retrieval, AAAI 2016.
    """

    optimizer: str = "sgd"  # Adam converges to the saddle of the likelihood at u = 0
    lr: float = 0.05
    quantization: float = 0.1
    squared: bool = False

    def loss(self, out: Outputs) -> Tensor:
        z, s = out.u.tanh(), similarity(out.y)
        inner = z @ z.T
        pairs = (inner / self.n_bits - (2 * s - 1)) ** 2 if self.squared else likelihood(inner, s)
        return over_pairs(pairs) + self.quantization * logcosh_quantization(z)
