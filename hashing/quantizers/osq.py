"""OSQ, the optimized scalar quantizer of Lucene: an interval of its own for every row."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..hamming.layout import read_only
from ..mapreduce import Array, Metric
from .contract import Quantizer
from .estimator import COLUMNS, QUERY_BITS, Estimator, levels_of
from .queries import checked_queries, constant_terms, exact


@dataclass(frozen=True, eq=False)
class OSQHash(Quantizer):
    """The levels of v = x - mean in an interval [low, low + (2^bits - 1) step] that is optimized for every row."""

    mean: Array  # (d,)
    bits: int = 1  # of a coordinate
    columns: ClassVar[tuple[str, ...]] = (*COLUMNS, "low_float16")
    name: ClassVar[str] = "OSQ"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.mean), self.bits * len(self.mean)

    def quantize(self, x: Array) -> tuple[Array, Array]:
        return _in_intervals(x - self.mean, self.mean, self.bits)

    def estimator(self, queries: Array, metric: Metric, real: bool = False) -> Estimator:
        self.check_metric(metric)
        p = checked_queries(queries, metric, self.dim) - self.mean
        levels = exact(p) if real else _rounded(p, self.mean)
        return Estimator(metric, self.bits, *levels, *constant_terms(p, self.mean, metric), units=self._units)


def _rounded(p: Array, mean: Array) -> tuple[Array, Array, Array]:
    """Return the 4-bit levels, low and step of queries p (q, d), rounded as rows are."""
    u, correctives = _in_intervals(p, mean, QUERY_BITS)
    ones = np.packbits(u > 0, axis=1, bitorder="little")
    step, low = correctives[:, [0, 3]].T.astype(np.float64)
    return levels_of(ones, QUERY_BITS, p.shape[1]), low, step


def _in_intervals(v: Array, mean: Array, bits: int) -> tuple[Array, Array]:
    from . import kernels

    n, d = v.shape
    u, correctives = np.empty((n, bits * d), np.float32), np.empty((n, 4), np.float32)
    kernels.round_in_interval(read_only(v), bits, read_only(mean), u, correctives)
    return u, correctives
