"""Spectral hashing."""

from dataclasses import dataclass

import numpy as np

from ..families import CosineHash
from ..mapreduce import Array, Data
from ..solvers import top_eigenvectors
from ..statistics import Range, moments
from . import register


@register
@dataclass(frozen=True)
class SH:
    """Spectral hashing: signs of the n_bits slowest sine waves along the principal directions.

    Minimises the mean distance of the codes of similar rows, subject to balanced and uncorrelated bits, relaxed to real
    values. For rows uniform in a box with sides r, the solutions are cos(m pi (v - a) / r), each along one side that
    starts at a, with eigenvalue (m pi / r)^2. A bit is the sign of one of these, so longer sides get more bits.

    Summed over all rows: the moments; then the minimum and maximum of each coordinate.

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


def _slowest(ranges: Array, n_bits: int) -> tuple[Array, Array]:
    """Return the sides and modes m of the n_bits smallest m / r, smallest first; ties go to the earlier side.

    The longest side alone has n_bits candidates, so higher modes are never needed. Ranges differ in their last digits
    if the rows are sharded differently; rounding makes such values equal, so that their order is the same.
    """
    relative = np.divide(ranges.max(), ranges, out=np.full_like(ranges, np.inf), where=ranges > 0)
    slowness = np.outer(relative, np.arange(1, n_bits + 1)).round(9)
    side, index = np.divmod(np.argsort(slowness, axis=None, kind="stable")[:n_bits], n_bits)
    return side, index + 1
