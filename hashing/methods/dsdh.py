"""DSDH: deep supervised discrete hashing."""

from dataclasses import dataclass, field

from ..deep.contract import Outputs, Tensor
from ..deep.losses import descended, likelihood, over_pairs, sgn, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DSDH(Deep):
    """Deep supervised discrete hashing: pairwise likelihood, with discrete codes that also classify linearly.

    Minimises -sum log p(s_ij | u_i'u_j / 2) + mu |y - W'b|^2 + nu |W|^2 + eta |b - u|^2 over the network, W, and codes
    b in {-1, +1}, with means instead of sums. As in the authors' code, W and the codes B are solved for each batch: W
    by ridge regression, then B by discrete cyclic coordinate descent on the second and last terms, starting from
    sgn(u). The network then takes a gradient step towards B.

    Reference: Li, Sun, He & Tan, Deep supervised discrete hashing, NIPS 2017.
    """

    optimizer: str = "sgd"  # Adam converges to the saddle of the likelihood at u = 0
    lr: float = 0.05
    mu: float = field(default=1.0, metadata={"above": 0})
    nu: float = 0.1
    eta: float = 0.1
    sweeps: int = 10

    def loss(self, out: Outputs) -> Tensor:
        theta = out.u @ out.u.T / 2
        away = ((out.u - self.codes(out.u.detach(), out.y)) ** 2).mean()
        return over_pairs(likelihood(theta, similarity(out.y))) + self.eta * away

    def codes(self, u: Tensor, y: Tensor) -> Tensor:
        """Return codes B (n, n_bits) in {-1, +1} that lower mu |Y - BW|^2 + eta |B - U|^2, with W solved for sgn(U)."""
        b = sgn(u)
        gram = b.T @ b
        gram.diagonal().add_(self.nu / self.mu)
        w = gram.inverse() @ (b.T @ y)
        q = y @ w.T + self.eta / self.mu * u
        return descended(b, q, w @ w.T, self.sweeps)
