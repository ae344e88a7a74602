"""Code health: how evenly codes use their bits."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import entr

from .. import bits
from ..mapreduce import Array, Batch
from .histograms import narrow, widened


class Health(NamedTuple):
    """How evenly the codes use their bits."""

    rows: int
    balance: Array  # (n_bits,) float64, share of ones; 0.5 is best
    entropy: Array  # (n_bits,) float64, bits of information of each bit alone; 1 is best
    correlation: float  # largest |correlation| of two bits, a constant bit having none; 0 is best


@dataclass(frozen=True)
class CodeHealth:
    """Statistic over packed codes -> Health, from integer counts of ones and of pairs of ones.

    The state is the upper triangle of the counts, row 0 and column 0 being of a bit that is always one. Each is kept as
    48 bits, (m, 3) uint16: at 4096 bits 50 MB, where the matrix as int64 would be 134.
    """

    n_bits: int

    def zero(self):
        return np.zeros(((self.n_bits + 1) * (self.n_bits + 2) // 2, 3), np.uint16)

    def update(self, state, batch: Batch):
        counts = np.zeros((self.n_bits + 1, self.n_bits + 1), np.int64)
        for start in range(0, len(batch.x), 4096):  # float32 counts exactly up to 2^24
            ones = bits.unpack(batch.x[start : start + 4096], self.n_bits)
            ones = np.pad(ones.astype(np.float32), ((0, 0), (1, 0)), constant_values=1)
            counts += (ones.T @ ones).astype(np.int64)
        return self.merge(state, narrow(counts[np.triu_indices(self.n_bits + 1)]))

    def merge(self, left, right):
        return narrow(widened(left) + widened(right))

    def finish(self, state):
        counts = np.zeros((self.n_bits + 1, self.n_bits + 1), np.int64)
        counts[np.triu_indices(self.n_bits + 1)] = widened(state)
        rows = counts[0, 0]
        if rows == 0:
            raise ValueError("expected at least one row, found none in all shards together")
        p = counts[0, 1:] / rows
        deviation = np.sqrt(p * (1 - p))
        scale = np.outer(deviation, deviation)
        correlation = np.divide(
            counts[1:, 1:] / rows - np.outer(p, p), scale, out=np.zeros_like(scale), where=scale > 0
        )
        return Health(int(rows), p, (entr(p) + entr(1 - p)) / np.log(2), float(abs(np.triu(correlation, 1)).max()))
