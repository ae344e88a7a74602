"""Code health: how evenly codes use their bits."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import entr

from .. import bits
from ..mapreduce import Array, Batch


class Health(NamedTuple):
    """Result of `CodeHealth`."""

    rows: int
    balance: Array  # (n_bits,) float64, share of ones; 0.5 is best
    entropy: Array  # (n_bits,) float64, entropy of each bit alone, in bits; 1 is best
    correlation: float  # largest |Pearson correlation| of two bits, 0 for a constant bit; 0 is best
    correlations: Array  # (n_bits, n_bits) float64, Pearson correlation of every two bits; 0 for a constant bit


@dataclass(frozen=True)
class CodeHealth:
    """Statistic over packed codes -> Health, from integer counts of ones and of pairs of ones.

    The state is the upper triangle of an (n_bits + 1, n_bits + 1) matrix of counts, packed by pack_counts. Row 0 and
    column 0 belong to an additional bit that is always one. A state is limited to 64 MiB; at 4096 bits, int64 counts
    would exceed that, and packed counts take 48 MiB.

    `finish` raises ValueError if there are no rows.

    Examples
    --------
    >>> statistic = CodeHealth(n_bits=2)
    >>> batch = Batch(np.arange(4), np.array([[0b00], [0b01], [0b10], [0b10]], np.uint8))
    >>> statistic.finish(statistic.update(statistic.zero(), batch)).balance
    array([0.25, 0.5 ])
    """

    # Derivation: docs/evaluation.md, "Code health"

    n_bits: int

    def zero(self) -> Array:
        return np.zeros(((self.n_bits + 1) * (self.n_bits + 2) // 2, 3), np.uint16)

    def update(self, state: Array, batch: Batch) -> Array:
        counts = np.zeros((self.n_bits + 1, self.n_bits + 1), np.int64)
        for start in range(0, len(batch.x), 4096):  # float32 counts exactly up to 2^24
            ones = bits.unpack(batch.x[start : start + 4096], self.n_bits)
            ones = np.pad(ones.astype(np.float32), ((0, 0), (1, 0)), constant_values=1)
            counts += (ones.T @ ones).astype(np.int64)
        return self.merge(state, pack_counts(counts[np.triu_indices(self.n_bits + 1)]))

    def merge(self, left: Array, right: Array) -> Array:
        return pack_counts(unpack_counts(left) + unpack_counts(right))

    def finish(self, state: Array) -> Health:
        counts = np.zeros((self.n_bits + 1, self.n_bits + 1), np.int64)
        counts[np.triu_indices(self.n_bits + 1)] = unpack_counts(state)
        rows = counts[0, 0]
        if rows == 0:
            raise ValueError("expected at least one row, found none in all shards together")
        p = counts[0, 1:] / rows
        deviation = np.sqrt(p * (1 - p))
        scale = np.outer(deviation, deviation)
        both = np.triu(counts[1:, 1:]) + np.triu(counts[1:, 1:], 1).T
        covariance = both / rows - np.outer(p, p)
        correlation = np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0)
        largest = float(abs(np.triu(correlation, 1)).max())
        return Health(int(rows), p, (entr(p) + entr(1 - p)) / np.log(2), largest, correlation)


def pack_counts(counts: Array) -> Array:
    """Return counts (m,) below 2^48 as 48 bits each, (m, 3) uint16, the lowest 16 bits first."""
    return counts.astype("<i8").view("<u2").reshape(-1, 4)[:, :3].copy()


def unpack_counts(packed: Array) -> Array:
    """Return the counts (m,) int64 that pack_counts packed into (m, 3) uint16."""
    return np.pad(packed, ((0, 0), (0, 1))).view("<i8")[:, 0]
