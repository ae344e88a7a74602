"""Functions of rows and anchors from which hash functions and fits are made. They keep the precision of x."""

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from .mapreduce import Array, one_blas_thread
from .solvers import top_eigenvectors

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": expit,
    "tanh": np.tanh,
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


def anchor_width(anchors: Array) -> float:
    """The mean distance of an anchor (m, d) to the nearest that differs, as of a row to its nearest anchor."""
    once = anchors[np.sort(np.unique(anchors, axis=0, return_index=True)[1])]
    with one_blas_thread():
        distances = squared_distances(once, once)
    np.fill_diagonal(distances, np.inf)
    width = float(np.sqrt(distances.min(axis=1)).mean())
    if not 0 < width < np.inf:
        raise ValueError(f"expected anchors that differ, found the same row {len(anchors)} times")
    return width


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


def anchor_eigenvectors(mass: Array, gram: Array, k: int) -> Array:
    """W (m, k): ZW (n, k) are the smoothest functions on the anchor graph, balanced, uncorrelated, of mean square 1.

    They are the eigenvectors of Z diag(mass)^-1 Z' of the largest eigenvalues under 1, for mass = Z'1 (m,) and
    gram = Z'Z (m, m). The eigenvalue 1 belongs to functions that are constant on each connected part of the graph;
    0.999 and more counts as 1. Raises ValueError where fewer than k are left.
    Source: Liu, Wang, Kumar & Chang, Hashing with graphs, ICML 2011, section 3.2; the authors' code.
    """
    if k >= len(mass):
        raise ValueError(f"expected fewer eigenvectors than anchors, found {k} of {len(mass)} anchors (1 for 10 rows)")
    scale = 1 / np.sqrt(mass)
    with one_blas_thread():
        matrix = gram * np.outer(scale, scale)
        vectors = top_eigenvectors(matrix, len(matrix))
        values = np.einsum("ij,ij->j", vectors, matrix @ vectors)
    kept = np.flatnonzero((values < 1 - 1e-3) & (values > 1e-9))[:k]
    if len(kept) < k:
        raise ValueError(
            f"expected an anchor graph with {k} eigenvalues between 0 and 1, found {len(kept)}, in "
            f"{(values >= 1 - 1e-3).sum()} parts that nothing connects: more nearest anchors would"
        )
    vectors = np.where(np.abs(vectors[:, kept]) > 1e-9, vectors[:, kept], 0)  # in parts elsewhere, only rounding
    weights: Array = scale[:, None] * vectors * np.sqrt(mass.sum() / values[kept])
    return weights
