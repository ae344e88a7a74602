"""Discrete graph hashing."""

from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array

from ..anchors import anchor_eigenvectors, anchor_graph, anchor_weights, check_anchors
from ..bits import sgn
from ..families import AnchorGraphHash
from ..mapreduce import Array, Batch, Data, Sum
from ..solvers import nearest_balanced, quantizing_rotation
from . import register


class GraphRows(NamedTuple):
    """Rows on the anchor graph."""

    z: csr_array  # (n, m), weights of the nearest anchors
    x: Array  # (n, n_bits), Y


@register
@dataclass(frozen=True)
class DGH:
    """Discrete graph hashing: binary codes that are smooth on an anchor graph, balanced and uncorrelated.

    Maximises tr(B'AB) + rho tr(B'Y) over codes B in {-1, +1} and Y with Y'1 = 0 and Y'Y = nI, where A is the anchor
    graph. Starting from a rotation of the eigenvectors of A, B is updated by B <- sgn(2AB + rho Y) until it no longer
    changes, then Y is solved; neither step lowers the objective. The bits of a new row are the signs of its anchors'
    mean codes. This out-of-sample extension could not be compared with the paper.

    Summed over all rows: Z'Z, Z'1, the sums of the rotation, then Z'B, 1'[B Y] and [B Y]'[B Y]. Z and Y are stored with
    their shard.

    Reference: Liu, Mu, Kumar & Chang, Discrete graph hashing, NIPS 2014; the initialisation is DGH-R, or DGH-I with
    n_rotate = 0.
    """

    n_bits: int
    rho: float = field(default=0.1, metadata={"above": 0})
    n_anchors: int = 300
    n_nearest: int = 3
    n_kmeans: int = 5
    n_rotate: int = field(default=100, metadata={"least": 0})
    n_iter: int = 20
    n_inner: int = 300  # at most this many updates of B per iteration
    seed: int = 0

    def __post_init__(self) -> None:
        check_anchors(self.n_anchors, self.n_nearest, self.n_bits)

    def fit(self, data: Data) -> AnchorGraphHash:
        anchors, sigma, mass, gram = anchor_graph(data, self.n_anchors, self.n_nearest, self.n_kmeans, self.seed)
        weight = anchor_eigenvectors(mass, gram, self.n_bits)
        rows = data.map_rows(partial(_on_the_graph, weight, anchors, sigma, self.n_nearest), "rows on the graph")
        rotation = quantizing_rotation(rows, self.n_bits, self.n_rotate, self.seed if self.n_rotate else None)
        rows = rows.map_rows(partial(_rotated, rotation=rotation), "first Y")
        p = np.zeros_like(weight)  # so that the first B is sgn(Y)
        for i in range(self.n_iter):
            before, (rows, p) = p, improved(rows, p, mass, self.rho, self.n_inner, f"codes {i + 1}")
            if (p == before).all():
                break
        return AnchorGraphHash(anchors, sigma, self.n_nearest, p, np.zeros((2, 0)))


def _on_the_graph(weight: Array, anchors: Array, sigma: float, n_nearest: int, batch: Batch) -> GraphRows:
    z = csr_array(anchor_weights(batch.x.astype(np.float64), anchors, sigma, n_nearest))
    return GraphRows(z, z @ weight)


def _rotated(rows: GraphRows, rotation: Array) -> GraphRows:
    return rows._replace(x=rows.x @ rotation)


def improved(
    rows: Data[GraphRows], p: Array, mass: Array, rho: float, n_inner: int, label: str
) -> tuple[Data[GraphRows], Array]:
    """Update B at most n_inner times, then solve Y.

    Returns the rows with the new Y, and P (m, n_bits), the mean codes of the anchors.
    """
    for _ in range(n_inner):
        before, (sums, total, gram) = p, rows.reduce(Sum(partial(_sums, p=p, rho=rho)), label)
        p = sums / mass[:, None]  # 2AB = 2ZP
        if (p == before).all():
            break
    mix = nearest_balanced(gram - np.outer(total, total) / mass.sum(), mass.sum())
    return rows.map_rows(partial(_with_y, p=before, rho=rho, mean=total / mass.sum(), mix=mix), "Y"), p


def _b_and_y(rows: GraphRows, p: Array, rho: float) -> Array:
    """Return [B Y] (n, 2 n_bits), given the mean codes p (m, n_bits) of the anchors before this update of B."""
    return np.hstack([sgn(2 * (rows.z @ p) + rho * rows.x), rows.x])


def _sums(rows: GraphRows, p: Array, rho: float) -> tuple[Array, Array, Array]:
    both = _b_and_y(rows, p, rho)
    return rows.z.T @ both[:, : p.shape[1]], both.sum(axis=0), both.T @ both


def _with_y(rows: GraphRows, p: Array, rho: float, mean: Array, mix: Array) -> GraphRows:
    return rows._replace(x=(_b_and_y(rows, p, rho) - mean) @ mix)
