"""Anchor graph hashing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..anchors import anchor_eigenvectors, anchor_graph, anchor_weights, check_anchors
from ..families import AnchorGraphHash
from ..mapreduce import Array, Batch, Data, Sum
from . import register


@register
@dataclass(frozen=True)
class AGH:
    """Anchor graph hashing: signs of the smoothest eigenvectors of a graph that links rows through shared anchors.

    The graph is A = Z diag(Z'1)^-1 Z', where Z holds the weights of each row's nearest anchors (k-means centres), and
    the eigenvectors f minimise f'(I - A)f. With layers=2 each eigenvector gives two bits: the second bit splits its
    positive rows at one threshold and its negative rows at another. These two thresholds minimise the graph cut of a
    balanced bit.

    Summed over all rows: the counts and sums of k-means, then Z'1 and Z'Z, then three sums for the thresholds.

    Reference: Liu, Wang, Kumar & Chang, Hashing with graphs, ICML 2011.
    """

    n_bits: int
    layers: int = 2
    n_anchors: int = 300
    n_nearest: int = 2
    n_iter: int = 5  # iterations of k-means
    seed: int = 0

    def __post_init__(self) -> None:
        if self.layers not in (1, 2) or self.n_bits % self.layers:
            raise ValueError(
                f"expected layers=1, or 2 and an even n_bits, found layers={self.layers}, n_bits={self.n_bits}"
            )
        check_anchors(self.n_anchors, self.n_nearest, self.n_bits // self.layers)

    def fit(self, data: Data) -> AnchorGraphHash:
        anchors, sigma, mass, gram = anchor_graph(data, self.n_anchors, self.n_nearest, self.n_iter, self.seed)
        weight = anchor_eigenvectors(mass, gram, self.n_bits // self.layers)
        split = np.zeros((2, 0))
        if self.layers == 2:
            z = partial(anchor_weights, anchors=anchors, sigma=sigma, n_nearest=self.n_nearest)
            n_positive, total, positive, absolute = data.reduce(
                Sum(partial(_halves, z=z, weight=weight)), "second layer"
            )
            split = np.stack(thresholds(n_positive, total, positive, absolute, mass))
        return AnchorGraphHash(anchors, sigma, self.n_nearest, weight, split)


def _halves(batch: Batch, z: Callable[[Array], Array], weight: Array) -> tuple[Array, Array, Array, Array]:
    """Return sums over the positive rows of each function y = Zw, and |y|'Z (k, m).

    The sums over positive rows are their number (k,), the sum of y (k,) and the sum of z (k, m).
    """
    weights = z(batch.x.astype(np.float64))
    y = weights @ weight
    positive = (y >= 0).astype(np.float64)
    return positive.sum(axis=0), (positive * y).sum(axis=0), positive.T @ weights, np.abs(y).T @ weights


def thresholds(n_positive: Array, total: Array, positive: Array, absolute: Array, mass: Array) -> tuple[Array, Array]:
    """Return the thresholds (upper, lower), each (k,), of the second bit on positive and negative rows.

    They minimise f'(I - A)f, A the graph, where f = y - upper on positive rows and f = lower - y on the others,
    subject to the sum of f being zero (section 4). The constraint leaves one unknown, so the minimum is in closed form.
    """
    n = mass.sum()
    n_negative = n - n_positive
    crossing = n_positive - (positive**2 / mass).sum(axis=1)  # the weight of the edges cut by the first bit
    step = (total - (positive * absolute / mass).sum(axis=1)) / crossing
    return (2 * total + n_negative * step) / n, (n_positive * step - 2 * total) / n
