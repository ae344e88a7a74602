"""Anchor graph hashing."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..anchors import anchor_eigenvectors, anchor_graph, anchor_weights, check_anchors
from ..functions import AnchorGraphHash
from ..mapreduce import Data, Sum
from . import register


@register
@dataclass(frozen=True)
class AGH:
    """The signs of the smoothest functions on a graph in which rows are near if they are near the same anchors.

    With two layers half as many functions give two bits each: the second splits the positive rows at one threshold
    and the negative rows at another, which cut the graph least for a balanced bit.
    Additive: the counts and sums of k-means, then Z'1 and Z'Z, then three sums for the thresholds, over all rows.

    Reference: Liu, Wang, Kumar & Chang, Hashing with graphs, ICML 2011.
    """

    n_bits: int
    layers: int = 2
    n_anchors: int = 300
    n_nearest: int = 2
    n_iter: int = 5  # of k-means
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
            sums = data.reduce(Sum(partial(_halves, z=z, weight=weight)), "second layer")
            split = np.stack(thresholds(*sums, mass=mass))
        return AnchorGraphHash(anchors, sigma, self.n_nearest, weight, split)


def _halves(batch, z, weight):
    """Of each function y = Zw, the number of positive rows (k,), their sum of y (k,) and of z (k, m), and |y|'Z."""
    z = z(batch.x.astype(np.float64))
    y = z @ weight
    positive = (y >= 0).astype(np.float64)
    return positive.sum(axis=0), (positive * y).sum(axis=0), positive.T @ z, np.abs(y).T @ z


def thresholds(n_positive, total, positive, absolute, mass):
    """(upper, lower), (k,) each: of the balanced splits of y, |y| less its half's threshold, the smoothest.

    Smoothest is the least f'(I - A)f over f = y - upper on positive rows, f = lower - y on the others, for A the graph,
    with the sum of f zero; one unknown is left, and its quadratic has this minimum (section 4).
    """
    n = mass.sum()
    n_negative = n - n_positive
    crossing = n_positive - (positive**2 / mass).sum(axis=1)  # what the first bit cuts of the graph
    step = (total - (positive * absolute / mass).sum(axis=1)) / crossing
    return (2 * total + n_negative * step) / n, (n_positive * step - 2 * total) / n
