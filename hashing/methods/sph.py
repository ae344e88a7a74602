"""Spherical hashing."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..anchors import squared_centre_distances
from ..blas import one_blas_thread
from ..families import SphericalHash
from ..mapreduce import Array, Batch, Data
from ..statistics import Sample
from . import register


@register
@dataclass(frozen=True)
class SpH:
    """Spherical hashing: each bit is a sphere that contains half of the rows, and any two spheres share a quarter.

    The bits, inside or outside a sphere, are then balanced and pairwise independent. Pivots repel each other if their
    spheres share too many rows and attract each other if they share too few; radii are median distances. The iteration
    stops when the shared counts are close to a quarter, or after n_iter; the best spheres found are returned. Codes are
    compared by plain Hamming distance.

    Data read: `sample` randomly selected rows, as medians cannot be summed over shards; the paper also uses a training
    subset. Only the n_bits + 1 coordinates of these rows are transferred.

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
            span = np.linalg.qr((pivots - origin).T)[0]  # (d, k): pivots stay in this span
            pivots = np.pad((pivots - origin) @ span, ((0, 0), (0, 1)))
            coordinates = data.map_rows(partial(_coordinates, origin=origin, span=span), "coordinates")
            x = coordinates.reduce(Sample(self.sample, self.seed), "sample").x
            pivots, radii = _spheres(x, pivots, self.n_iter)
            return SphericalHash(pivots[:, :-1] @ span.T + origin, radii)


def _coordinates(batch: Batch, origin: Array, span: Array) -> Batch:
    """Return coordinates in the span and the distance to it, which preserve the distances to all pivots."""
    x = batch.x - origin
    inside = x @ span
    outside = np.sqrt(np.maximum(0, (x**2).sum(axis=1) - (inside**2).sum(axis=1)))
    return Batch(batch.ids, np.column_stack([inside, outside]))


def _spheres(x: Array, pivots: Array, n_iter: int) -> tuple[Array, Array]:
    """Return pivots (n_bits, k) and radii (n_bits,) whose overlaps are closest to a quarter of the rows x (n, k)."""
    best: tuple[float, Array, Array] = np.inf, pivots, np.zeros(len(pivots))
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


def _excess(inside: Array) -> Array:
    """Return o / (n / 4) - 1 (n_bits, n_bits) for the number o of rows shared by two spheres; 0 on the diagonal."""
    excess: Array = inside.T @ inside / (len(inside) / 4) - 1
    np.fill_diagonal(excess, 0)
    return excess


def _error(excess: Array) -> float:
    """Return at most 1 if the mean absolute excess is at most 10 % and its standard deviation at most 15 %."""
    pairs = excess[np.triu_indices(len(excess), 1)]
    return max(np.abs(pairs).mean() / 0.10, pairs.std() / 0.15) if len(pairs) else 0.0
