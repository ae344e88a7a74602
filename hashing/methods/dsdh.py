"""DSDH: deep supervised discrete hashing."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..deep.contract import Outputs, Tensor
from ..deep.losses import likelihood, over_pairs, sgn, similarity
from ..deep.method import Deep
from . import register


@register
@dataclass(frozen=True)
class DSDH(Deep):
    """Likelihood of the pairs + mu |y - W'b|^2 + nu |W|^2 + eta |b - u|^2, b in {-1, +1}: the codes also classify.

    As in the authors' code, W and the codes B are solved for each batch: W by ridge regression, B by discrete cyclic
    coordinate descent on the last three terms, from sgn(u); the network then steps towards B. Means in place of sums.
    Reference: Li, Sun, He & Tan, Deep supervised discrete hashing, NIPS 2017.
    """

    optimizer: str = "sgd"  # the likelihood has a saddle at u = 0, to which Adam falls
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
        """B (n, n_bits) in {-1, +1} of a lower mu |Y - BW|^2 + eta |B - U|^2, and W (n_bits, c) beside it."""
        b = sgn(u)
        gram = b.T @ b
        gram.diagonal().add_(self.nu / self.mu)
        w = gram.inverse() @ (b.T @ y)
        q = y @ w.T + self.eta / self.mu * u
        product = w @ w.T
        for _ in range(self.sweeps):
            for k in range(self.n_bits):
                b[:, k] = sgn(q[:, k] - b @ product[:, k] + b[:, k] * product[k, k])
        return b
