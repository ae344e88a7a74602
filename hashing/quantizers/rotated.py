"""Quantizers of randomly rotated rows."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Self

import numpy as np

from ..hamming.layout import read_only
from ..mapreduce import Array, Metric
from ..statistics import Moments
from .contract import Quantizer
from .estimator import Estimator
from .queries import checked_queries, constant_terms, exact, rounded
from .units import symmetric_levels, units


@dataclass(frozen=True, eq=False)
class RotatedQuantizer(Quantizer):
    """The levels of v = (x - mean) R, with values y for which v is approximately step y.

    The step is |v|^2 / <v, y>: then the estimate of <v, p> is exact for p = v.
    """

    rotation: Array  # (d, k), orthonormal; with k < d, distances are those of the projections on its columns
    centre: Array  # (k,), the rotated mean
    bits: int = 1  # of a coordinate
    codebooks: ClassVar[dict[int, Array]] = {}  # the values y of the levels, by bits; default: symmetric_levels

    @classmethod
    def fitted(cls, rotation: Array, of: Moments, bits: int, metric: Metric) -> Self:
        """Return the quantizer of rows with some moments, whose covariance may be only its trace."""
        centre, variance = of.mean @ rotation, np.trace(np.atleast_2d(of.cov))
        if metric == "cosine" and rotation.shape[1] < len(rotation):  # projections are scaled by about 1 / sqrt(size)
            size = np.einsum("ij,ij->", rotation, of.cov @ rotation) + centre @ centre
            size = size or 1.0  # rows that are all equal may have projections of zero
            centre, variance = centre / np.sqrt(size), 1 - centre @ centre / size
        values = cls.codebooks.get(bits, symmetric_levels(bits))
        return cls(rotation, centre, bits, **units(metric, values, centre, variance))

    @property
    def shape(self) -> tuple[int, int]:
        d, k = self.rotation.shape
        return d, self.bits * k

    def rotated(self, x: Array) -> Array:
        """Return v (n, k) float32 of rows or queries x (n, d) float32, summed in the same order for every row.

        By cosine, projections on k < d directions are scaled to length one.
        """
        from ..product_kernels import project

        weight, threshold = self._packed
        v = np.empty((len(x), len(threshold)), np.float32)
        project(read_only(x).reshape(-1), self.dim, weight, threshold, v.reshape(-1))
        v = v[:, : len(self.centre)]
        if self.metric == "cosine" and v.shape[1] < self.dim:
            w = v + self.centre
            norms = np.sqrt(np.einsum("ij,ij->i", w, w, dtype=np.float64))[:, None]
            v[:] = w / np.where(norms > 0, norms, 1) - self.centre
        return v

    def quantize(self, x: Array) -> tuple[Array, Array]:
        v = self.rotated(x)
        u, correctives = np.empty((len(x), self.n_bits), np.float32), np.empty((len(x), 3), np.float32)
        self.quantize_rotated(read_only(v), read_only(self.centre), u, correctives)
        return (v if self.bits == 1 else u), correctives

    def quantize_rotated(self, v: Array, centre: Array, u: Array, correctives: Array) -> None:
        """Fill u (n, n_bits) and the correctives (n, 3) of rotated rows v (n, k)."""
        raise NotImplementedError

    def estimator(self, queries: Array, metric: Metric, real: bool = False) -> Estimator:
        self.check_metric(metric)
        p = self.rotated(checked_queries(queries, metric, self.dim))
        levels = exact(p) if real else rounded(p)
        terms = constant_terms(p, self.centre, metric)
        return Estimator(metric, self.bits, *levels, *terms, self.codebooks.get(self.bits), self._units)

    @cached_property
    def _packed(self) -> tuple[Array, Array]:
        from ..product_kernels import packed

        return packed(self.rotation, self.centre)
