"""Spherical hashing."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..anchors import squared_centre_distances
from ..functions import SphericalHash
from ..mapreduce import Batch, Data, one_blas_thread
from ..statistics import Sample
from . import register


@register
@dataclass(frozen=True)
class SpH:
    """Spheres that each hold half of the rows, and each two of them a quarter: bits balanced and independent.

    Pivots repel where two spheres share too many rows and attract where too few; radii are the medians of distance.
    Stops where the shared counts are near enough to a quarter, or after n_iter; the best spheres seen are kept.
    Additive: nothing, since medians do not add up. All is done on `sample` rows drawn by key, as in the paper on
    a training subset; only their n_bits + 1 coordinates travel. Codes are compared by plain Hamming distance.

    Reference: Heo, Lee, He, Chang & Yoon, Spherical hashing, CVPR 2012, section 3.
    """

    n_bits: int
    n_iter: int = 100
    sample: int = 100_000
    seed: int = 0

    def fit(self, data: Data) -> SphericalHash:
        first = data.reduce(Sample(5 * self.n_bits, self.seed), "first pivots").x.astype(np.float64)
        rows = np.random.default_rng(self.seed).integers(len(first), size=(self.n_bits, 5))
        origin, pivots = first.mean(axis=0), first[rows].mean(axis=1)
        with one_blas_thread():
            span = np.linalg.qr((pivots - origin).T)[0]  # (d, k), which the pivots never leave
            pivots = np.pad((pivots - origin) @ span, ((0, 0), (0, 1)))
            kept = data.map_rows(partial(_coordinates, origin=origin, span=span), "coordinates")
            x = kept.reduce(Sample(self.sample, self.seed), "sample").x
            pivots, radii = _spheres(x, pivots, self.n_iter)
            return SphericalHash(pivots[:, :-1] @ span.T + origin, radii)


def _coordinates(batch, origin, span):
    """Coordinates in the span, and the distance from it: as far from any pivot as the rows themselves."""
    x = batch.x - origin
    inside = x @ span
    outside = np.sqrt(np.maximum(0, (x**2).sum(axis=1) - (inside**2).sum(axis=1)))
    return Batch(batch.ids, np.column_stack([inside, outside]))


def _spheres(x, pivots, n_iter):
    """Pivots (n_bits, k) and radii (n_bits,) whose overlaps come nearest to a quarter of x (n, k)."""
    best = np.inf, pivots, np.zeros(len(pivots))
    for _ in range(n_iter):
        distances = np.sqrt(squared_centre_distances(x, pivots))
        radii = np.partition(distances, (len(x) - 1) // 2, axis=0)[(len(x) - 1) // 2]
        excess = _excess((distances <= radii).astype(np.float64))
        best = min(best, (_error(excess), pivots, radii), key=lambda state: state[0])
        if best[0] <= 1:
            break
        force = excess / (2 * len(pivots))
        pivots = pivots + force.sum(axis=1)[:, None] * pivots - force @ pivots
    return best[1:]


def _excess(inside):
    """(n_bits, n_bits), o / (n / 4) - 1 of the rows o shared by two spheres, 0 for a sphere and itself."""
    excess = inside.T @ inside / (len(inside) / 4) - 1
    np.fill_diagonal(excess, 0)
    return excess


def _error(excess):
    """Over 1 while the overlaps are more than 10 % from a quarter on average, or their deviation is over 15 %."""
    pairs = excess[np.triu_indices(len(excess), 1)]
    return max(np.abs(pairs).mean() / 0.10, pairs.std() / 0.15) if len(pairs) else 0.0
