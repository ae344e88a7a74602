"""Groups of tied rows: sums that the metrics of one histogram share. Notation as in hashing.evaluation.metrics."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..hamming.checks import check_k
from ..mapreduce import Array
from .rank_sums import harmonic


class CutTie(NamedTuple):
    """The tie that rank k cuts, each (q,) float64; empty if k is the end of a tie or beyond the last row."""

    n_before: Array  # rows at smaller distances
    r_before: Array  # relevant rows at smaller distances
    n: Array  # rows of the tie
    r: Array  # relevant rows of the tie
    seen: Array  # rows of the tie among the first k ranks


@dataclass(frozen=True, eq=False)
class TieGroups:
    """A histogram, and the sums that metrics share, computed on first use: (q, n_bits + 1) float64 by distance."""

    h: Array  # (2, q, n_bits + 1) int64

    @cached_property
    def n(self) -> Array:
        """Rows at each distance."""
        return np.asarray(self.h[0], np.float64)

    @cached_property
    def r(self) -> Array:
        """Relevant rows at each distance."""
        return np.asarray(self.h[1], np.float64)

    @cached_property
    def n_before(self) -> Array:
        """Rows at smaller distances."""
        return self.n.cumsum(axis=1) - self.n

    @cached_property
    def r_before(self) -> Array:
        """Relevant rows at smaller distances."""
        return self.r.cumsum(axis=1) - self.r

    @cached_property
    def sums(self) -> Array:
        """1/(n_before + 1) + ... + 1/(n_before + n)."""
        return harmonic(self.n_before, self.n)

    @cached_property
    def hits(self) -> Array:
        """Expected sum of l_i P(i) over the ranks of each distance."""
        return hit_precision(self.n, self.r, self.n_before, self.r_before, self.n, self.sums)

    @cached_property
    def relevant(self) -> Array:
        """R, all relevant rows, (q,)."""
        relevant: Array = self.r.sum(axis=1)
        return relevant

    def cut(self, k: int) -> CutTie:
        """Return the tie that rank k cuts. Raises ValueError for k < 1."""
        check_k(k)
        last = (self.n_before + self.n <= k).sum(axis=1)
        place = np.minimum(last, self.n.shape[1] - 1)
        i, inside = np.arange(len(last)), last == place
        n, r, n_before, r_before = (part[i, place] for part in (self.n, self.r, self.n_before, self.r_before))
        n_before, r_before = np.where(inside, (n_before, r_before), (n_before + n, r_before + r))
        n, r = np.where(inside, (n, r), 0)
        return CutTie(n_before, r_before, n, r, np.minimum(k - n_before, n))


Histogram = Array | TieGroups


def groups(h: Histogram) -> TieGroups:
    """Return the tie groups of a histogram; tie groups are returned unchanged."""
    return h if isinstance(h, TieGroups) else TieGroups(h)


def hit_precision(n: Array, r: Array, n_before: Array, r_before: Array, seen: Array, sums: Array) -> Array:
    """Return the expected sum of l_i P(i) over the first `seen` ranks of a tie.

    sums is harmonic(n_before, seen). Arrays broadcast against each other.

    Source: McSherry & Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of Tied
    Scores", ECIR 2008.
    """
    # Derivation: docs/evaluation.md, "Average precision over ties"
    slope = (r - 1) / np.maximum(n - 1, 1)  # a hit at place i of its tie has (i - 1) slope hits of the tie before it
    expected: Array = r / np.maximum(n, 1) * (slope * seen + (r_before + 1 - slope * (n_before + 1)) * sums)
    return expected
