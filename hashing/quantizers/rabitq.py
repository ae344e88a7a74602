"""RaBitQ: rotated rows, rounded to the nearest direction of a grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from ..hamming.layout import read_only
from ..mapreduce import Array
from ..neighbours.exact import Metric
from .contract import Quantizer
from .estimator import Estimator
from .queries import checked, constant_terms, exact, rounded


@dataclass(frozen=True, eq=False)
class RaBitQHash(Quantizer):
    """The levels k of v = (x - mean) R, such that y = k - (2^bits - 1) / 2 has the largest cosine with v.

    With one bit, they are the signs of v. The step is |v|^2 / <v, y>: then the estimate of <v, p> is exact for p = v,
    and unbiased over random rotations for any p.
    """

    rotation: Array  # (d, d), orthonormal
    centre: Array  # (d,), the rotated mean
    bits: int = 1  # of a coordinate
    name: ClassVar[str] = "RaBitQ"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.rotation), self.bits * len(self.rotation)

    def rotated(self, x: Array) -> Array:
        """Return v (n, d) float32 of rows or queries x (n, d) float32, summed in the same order for every row."""
        from ..product_kernels import project

        weight, threshold = self._packed
        v = np.empty((len(x), len(threshold)), np.float32)
        project(read_only(x).reshape(-1), self.dim, weight, threshold, v.reshape(-1))
        return v[:, : self.dim]

    def quantize(self, x: Array) -> tuple[Array, Array]:
        from . import kernels

        v = self.rotated(x)
        u, correctives = np.empty((len(x), self.n_bits), np.float32), np.empty((len(x), 3), np.float32)
        kernels.quantize_rotated(read_only(v), self.bits, read_only(self.centre), u, correctives)
        return (v if self.bits == 1 else u), correctives

    def estimator(self, queries: Array, metric: Metric, real: bool = False) -> Estimator:
        p = self.rotated(checked(queries, metric, self.dim))
        levels = exact(p) if real else rounded(p)
        return Estimator(metric, self.bits, *levels, *constant_terms(p, self.centre, metric))

    @cached_property
    def _packed(self) -> tuple[Array, Array]:
        from ..product_kernels import packed

        return packed(self.rotation, self.centre)
