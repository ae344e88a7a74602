"""K-means centres (anchors), kernels between rows and anchors, and anchor graphs. Kernels have the precision of x."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .blas import one_blas_thread
from .mapreduce import Array, Batch, Data, Sum
from .namespaces import namespace
from .solvers import top_eigenvectors
from .statistics import Sample, n_rows


def squared_centre_distances(x: Array, centres: Array) -> Array:
    """Return |x_i - c_j|^2 (n, m) for x (n, d) and centres (m, d).

    >>> squared_centre_distances(np.array([[0.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 2.0]]))
    array([[1., 4.]])
    """
    xp = namespace(x)
    origin = centres.mean(axis=0, dtype=x.dtype)  # smaller norms, smaller rounding errors
    x, centres = x - origin, xp.asarray(centres - origin, dtype=x.dtype)
    norms = xp.einsum("ij,ij->i", x, x)[:, None] + xp.einsum("ij,ij->i", centres, centres)
    distances: Array = (norms - 2 * (x @ centres.T)).clip(0)
    return distances


def rbf(x: Array, anchors: Array, gamma: float) -> Array:
    """Return exp(-gamma |x_i - a_j|^2) (n, m) for x (n, d) and anchors (m, d)."""
    kernel: Array = namespace(x).exp(-gamma * squared_centre_distances(x, anchors))
    return kernel


def anchor_width(anchors: Array) -> float:
    """Return the mean distance of the distinct anchors (m, d) to their nearest neighbours, as a kernel width.

    Raises ValueError if all anchors are equal.
    """
    once = anchors[np.sort(np.unique(anchors, axis=0, return_index=True)[1])]
    with one_blas_thread():
        distances = squared_centre_distances(once, once)
    np.fill_diagonal(distances, np.inf)
    width = float(np.sqrt(distances.min(axis=1)).mean())
    if not 0 < width < np.inf:
        raise ValueError(f"expected anchors that differ, found the same row {len(anchors)} times")
    return width


def anchor_weights(x: Array, anchors: Array, sigma: float, n_nearest: int) -> Array:
    """Return Z (n, m): exp(-|x - a|^2 / sigma^2) for each row's n_nearest anchors, 0 elsewhere; each row sums to 1.

    Source: Liu, Wang, Kumar & Chang, Hashing with graphs, ICML 2011, section 3.1.
    """
    distances = squared_centre_distances(x, anchors)
    if namespace(x) is not np:
        return _tensor_weights(distances, sigma, n_nearest)
    near = np.argpartition(distances, n_nearest - 1, axis=1)[:, :n_nearest]
    least = np.take_along_axis(distances, near, axis=1)
    nearest = least.min(axis=1, keepdims=True)  # weights relative to it do not underflow
    weights = np.exp((nearest - least) / sigma**2)
    z = np.zeros_like(distances)
    np.put_along_axis(z, near, weights / weights.sum(axis=1, keepdims=True), axis=1)
    return z


def _tensor_weights(distances: Any, sigma: float, n_nearest: int) -> Array:
    """Return `anchor_weights` as a tensor, for a tensor of squared distances (n, m)."""
    least, near = distances.topk(n_nearest, largest=False)
    z: Array = distances.new_zeros(distances.shape).scatter(1, near, (-least / sigma**2).softmax(1))
    return z


def check_anchors(n_anchors: int, n_nearest: int, n_functions: int) -> None:
    """Raise ValueError if n_anchors is below n_nearest, or does not exceed the number of eigenvectors."""
    if n_anchors < n_nearest:
        raise ValueError(f"expected n_nearest of at most n_anchors, found n_nearest={n_nearest}, n_anchors={n_anchors}")
    if n_anchors <= n_functions:
        raise ValueError(
            f"expected more anchors than the {n_functions} eigenvectors that make the bits, found "
            f"n_anchors={n_anchors}: ask for fewer bits or more anchors"
        )


def anchor_eigenvectors(mass: Array, gram: Array, k: int) -> Array:
    """Return W (m, k) such that ZW (n, k) are the k smoothest functions on the anchor graph.

    They are balanced, uncorrelated and of mean square 1: the eigenvectors of Z diag(mass)^-1 Z' for the largest
    eigenvalues below 1, where mass = Z'1 (m,) and gram = Z'Z (m, m). The eigenvalue 1 belongs to functions that are
    constant on each connected component; values of 0.999 and more count as 1. Raises ValueError where fewer than k
    eigenvalues remain.
    Source: Liu, Wang, Kumar & Chang, Hashing with graphs, ICML 2011, section 3.2; the authors' code.
    """
    if k >= len(mass):
        raise ValueError(
            f"expected fewer eigenvectors than anchors (one for 10 rows), found {k} eigenvectors, {len(mass)} anchors"
        )
    scale = 1 / np.sqrt(mass)
    with one_blas_thread():
        matrix = gram * np.outer(scale, scale)
        vectors = top_eigenvectors(matrix, len(matrix))
        values = np.einsum("ij,ij->j", vectors, matrix @ vectors)
    kept = np.flatnonzero((values < 1 - 1e-3) & (values > 1e-9))[:k]
    if len(kept) < k:
        raise ValueError(
            f"expected an anchor graph with {k} eigenvalues between 0 and 1, found {len(kept)}, in "
            f"{(values >= 1 - 1e-3).sum()} disconnected components: raise n_nearest to connect them"
        )
    vectors = np.where(np.abs(vectors[:, kept]) > 1e-9, vectors[:, kept], 0)  # drops rounding on other components
    weights: Array = scale[:, None] * vectors * np.sqrt(mass.sum() / values[kept])
    return weights


class Clusters(NamedTuple):
    """The result of k-means."""

    centres: Array  # (k, d) float64
    counts: Array  # (k,) rows of each


def kmeans(data: Data, k: int, n_iter: int, seed: int) -> Clusters:
    """Return k-means clusters of all rows, by Lloyd's algorithm from k sampled rows, or all rows if there are fewer.

    A centre without rows does not move. The counts are those of the assignment to the centres before the last update.
    """
    centres = data.reduce(Sample(k, seed), "first centres").x.astype(np.float64)
    counts = np.zeros(len(centres))
    for i in range(n_iter):
        label = f"k-means {i + 1} of {n_iter}"
        counts, sums = data.reduce(Sum(partial(_cluster_sums, centres=centres)), label)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    return Clusters(centres, counts)


def _cluster_sums(batch: Batch, centres: Array) -> tuple[Array, Array]:
    x = batch.x.astype(np.float64)
    member = np.zeros((len(x), len(centres)))
    member[np.arange(len(x)), squared_centre_distances(x, centres).argmin(axis=1)] = 1
    return member.sum(axis=0), member.T @ x


class AnchorGraph(NamedTuple):
    """The graph A = Z diag(mass)^-1 Z' of n rows connected through m anchors; rows and columns of A sum to 1."""

    anchors: Array  # (m, d) float64
    sigma: float  # the kernel's width
    mass: Array  # (m,) float64, Z'1 > 0; it sums to n, as the rows of Z sum to 1
    gram: Array  # (m, m) float64, Z'Z


def anchor_graph(data: Data, n_anchors: int, n_nearest: int, n_iter: int, seed: int) -> AnchorGraph:
    """Return the anchor graph of all rows.

    The anchors are k-means centres, at most one for 10 rows; sigma is the mean distance of a row to its n_nearest-th
    anchor. Anchors that are not among the nearest of any row are left out. Raises ValueError if there are too few rows
    for n_nearest anchors, or if the rows do not differ.
    Source: Liu, Wang, Kumar & Chang, Hashing with graphs, ICML 2011, section 3.
    """
    n = n_rows(data)
    n_anchors = min(n_anchors, n // 10)
    if n_anchors < n_nearest:
        raise ValueError(f"expected at least n_nearest = {n_nearest} anchors, one for 10 rows, found {n_anchors}")
    anchors = kmeans(data, n_anchors, n_iter, seed).centres
    total = data.reduce(Sum(partial(_reach, anchors=anchors, n_nearest=n_nearest)), "sigma")[0]
    sigma = float(total) / n
    if not sigma:
        raise ValueError(f"expected rows that differ, found {n} rows with at most {n_anchors} different values")
    graph = partial(_anchor_sums, anchors=anchors, sigma=sigma, n_nearest=n_nearest)
    mass, gram = data.reduce(Sum(graph), "anchor graph")
    used = mass > 0
    return AnchorGraph(anchors[used], sigma, mass[used], gram[np.ix_(used, used)])


def _reach(batch: Batch, anchors: Array, n_nearest: int) -> tuple[float]:
    distances = squared_centre_distances(batch.x.astype(np.float64), anchors)
    return (np.sqrt(np.partition(distances, n_nearest - 1, axis=1)[:, n_nearest - 1]).sum(),)


def _anchor_sums(batch: Batch, anchors: Array, sigma: float, n_nearest: int) -> tuple[Array, Array]:
    z = anchor_weights(batch.x.astype(np.float64), anchors, sigma, n_nearest)
    return z.sum(axis=0), z.T @ z
