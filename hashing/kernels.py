"""Functions of rows and anchors from which hash functions and fits are made. They keep the precision of x."""

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from .mapreduce import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": expit,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
}


def squared_distances(x: Array, centres: Array) -> Array:
    """(n, m), |x_i - c_j|^2 for x (n, d) and centres (m, d)."""
    origin = centres.mean(axis=0, dtype=x.dtype)  # rounding grows with the norms
    x, centres = x - origin, (centres - origin).astype(x.dtype)
    norms = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", centres, centres)
    distances: Array = np.maximum(norms - 2 * (x @ centres.T), 0)
    return distances


def rbf(x: Array, anchors: Array, gamma: float) -> Array:
    """(n, m), exp(-gamma |x_i - a_j|^2)."""
    return np.exp(-gamma * squared_distances(x, anchors))


def anchor_weights(x: Array, anchors: Array, sigma: float, n_nearest: int) -> Array:
    """Z (n, m): exp(-|x - a|^2 / sigma^2) on each row's nearest anchors, 0 elsewhere, rows summing to 1.

    Source: Liu, Wang, Kumar & Chang, Hashing with graphs, ICML 2011, section 3.1.
    """
    distances = squared_distances(x, anchors)
    near = np.argpartition(distances, n_nearest - 1, axis=1)[:, :n_nearest]
    least = np.take_along_axis(distances, near, axis=1)
    weights = np.exp((least.min(axis=1, keepdims=True) - least) / sigma**2)  # a common factor leaves: no row underflows
    z = np.zeros_like(distances)
    np.put_along_axis(z, near, weights / weights.sum(axis=1, keepdims=True), axis=1)
    return z
