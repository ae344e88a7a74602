"""Spectral hashing."""

from dataclasses import dataclass

import numpy as np

from ..functions import CosineHash
from ..mapreduce import Data
from ..solvers import top_eigenvectors
from ..statistics import Range, moments
from . import register


@register
@dataclass(frozen=True)
class SH:
    """The n_bits slowest waves along the principal directions: neighbours agree, and the bits are uncorrelated.

    For rows uniform in a box of sides r, the smoothest functions of a row are cos(m pi (v - a) / r), each along one
    side from a, with the eigenvalue (m pi / r)^2; a bit is the sign of one. A longer side is cut more often.
    Additive: the moments, then the least and the largest coordinate, over all rows.

    Reference: Weiss, Torralba & Fergus, Spectral hashing, NIPS 2008, section 2.
    """

    n_bits: int

    def fit(self, data: Data) -> CosineHash:
        mean, cov = moments(data)[1:]
        basis = top_eigenvectors(cov, min(self.n_bits, len(mean)))
        low, high = data.reduce(Range(basis), "ranges")
        if not (high > low).any():
            raise ValueError("expected rows that differ, found identical rows")
        side, mode = _slowest(high - low, self.n_bits)
        frequency = mode * np.pi / (high - low)[side]
        return CosineHash(basis[:, side] * frequency, -low[side] * frequency, np.zeros(self.n_bits))


def _slowest(ranges, n_bits):
    """Sides and modes m of the smallest m / r, smallest first; of equal ones the earlier side, then the lower m.

    The longest side alone has n_bits candidates as slow as any that is kept. Rounding makes ties of what differs only
    in the last digits, as it does from one cut of the rows to another.
    """
    relative = np.divide(ranges.max(), ranges, out=np.full_like(ranges, np.inf), where=ranges > 0)
    slowness = np.outer(relative, np.arange(1, n_bits + 1)).round(9)
    side, place = np.divmod(np.argsort(slowness, axis=None, kind="stable")[:n_bits], n_bits)
    return side, place + 1
