"""Anchors: k-means centres, kernels between rows and anchors, and anchor graphs. Kernels keep the precision of x."""

from functools import partial
from typing import NamedTuple

import numpy as np

from .mapreduce import Array, Data, Sum, one_blas_thread
from .solvers import top_eigenvectors
from .statistics import Sample


def squared_centre_distances(x: Array, centres: Array) -> Array:
    """(n, m), |x_i - c_j|^2 for x (n, d) and centres (m, d)."""
    origin = centres.mean(axis=0, dtype=x.dtype)  # rounding grows with the norms
    x, centres = x - origin, (centres - origin).astype(x.dtype)
    norms = np.einsum("ij,ij->i", x, x)[:, None] + np.einsum("ij,ij->i", centres, centres)
    distances: Array = np.maximum(norms - 2 * (x @ centres.T), 0)
    return distances


def rbf(x: Array, anchors: Array, gamma: float) -> Array:
    """(n, m), exp(-gamma |x_i - a_j|^2)."""
    return np.exp(-gamma * squared_centre_distances(x, anchors))


def anchor_width(anchors: Array) -> float:
    """The mean distance of an anchor (m, d) to the nearest that differs, as of a row to its nearest anchor."""
    once = anchors[np.sort(np.unique(anchors, axis=0, return_index=True)[1])]
    with one_blas_thread():
        distances = squared_centre_distances(once, once)
    np.fill_diagonal(distances, np.inf)
    width = float(np.sqrt(distances.min(axis=1)).mean())
    if not 0 < width < np.inf:
        raise ValueError(f"expected anchors that differ, found the same row {len(anchors)} times")
    return width


def anchor_weights(x: Array, anchors: Array, sigma: float, n_nearest: int) -> Array:
    """Z (n, m): exp(-|x - a|^2 / sigma^2) on each row's nearest anchors, 0 elsewhere, rows summing to 1.

    Source: Liu, Wang, Kumar & Chang, Hashing with graphs, ICML 2011, section 3.1.
    """
    distances = squared_centre_distances(x, anchors)
    near = np.argpartition(distances, n_nearest - 1, axis=1)[:, :n_nearest]
    least = np.take_along_axis(distances, near, axis=1)
    weights = np.exp((least.min(axis=1, keepdims=True) - least) / sigma**2)  # a common factor leaves: no row underflows
    z = np.zeros_like(distances)
    np.put_along_axis(z, near, weights / weights.sum(axis=1, keepdims=True), axis=1)
    return z


def check_anchors(n_anchors: int, n_nearest: int, n_functions: int) -> None:
    """Raise ValueError where so many anchors cannot give each row its nearest, or a graph that many functions."""
    if n_anchors < n_nearest:
        raise ValueError(f"expected n_nearest of at most n_anchors, found n_nearest={n_nearest}, n_anchors={n_anchors}")
    if n_anchors <= n_functions:
        raise ValueError(
            f"expected more anchors than the {n_functions} eigenvectors that make the bits, found "
            f"n_anchors={n_anchors}: ask for fewer bits or more anchors"
        )


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


class Clusters(NamedTuple):
    """Groups of rows."""

    centres: Array  # (k, d) float64
    counts: Array  # (k,) rows


def kmeans(data: Data, k: int, n_iter: int, seed: int) -> Clusters:
    """Lloyd's algorithm over all rows from k rows drawn by key; fewer rows than k give as many centres.

    A centre that loses all its rows stays where it is. The counts are those of the last iteration's centres before
    they moved.
    """
    centres = data.reduce(Sample(k, seed), "first centres").x.astype(np.float64)
    counts = np.zeros(len(centres))
    for i in range(n_iter):
        label = f"k-means {i + 1} of {n_iter}"
        counts, sums = data.reduce(Sum(partial(_cluster_sums, centres=centres)), label)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
    return Clusters(centres, counts)


def _cluster_sums(batch, centres):
    x = batch.x.astype(np.float64)
    member = np.zeros((len(x), len(centres)))
    member[np.arange(len(x)), squared_centre_distances(x, centres).argmin(axis=1)] = 1
    return member.sum(axis=0), member.T @ x


class AnchorGraph(NamedTuple):
    """The graph A = Z diag(mass)^-1 Z' of n rows that meet through m anchors; each row and column of A sums to 1."""

    anchors: Array  # (m, d) float64
    sigma: float  # the kernel's width
    mass: Array  # (m,) float64, Z'1 > 0; it sums to n, as the rows of Z sum to 1
    gram: Array  # (m, m) float64, Z'Z


def anchor_graph(data: Data, n_anchors: int, n_nearest: int, n_iter: int, seed: int) -> AnchorGraph:
    """Anchors by k-means, at most one for ten rows; sigma the mean distance of a row to its n_nearest-th anchor.

    An anchor that is among the nearest of no row is left out.
    Source: Liu, Wang, Kumar & Chang, Hashing with graphs, ICML 2011, section 3.
    """
    n = int(data.reduce(Sum(_count), "count")[0])
    n_anchors = min(n_anchors, n // 10)
    if n_anchors < n_nearest:
        raise ValueError(f"expected at least n_nearest = {n_nearest} anchors, one for ten rows, found {n_anchors}")
    anchors = kmeans(data, n_anchors, n_iter, seed).centres
    total = data.reduce(Sum(partial(_reach, anchors=anchors, n_nearest=n_nearest)), "sigma")[0]
    sigma = float(total) / n
    if not sigma:
        raise ValueError(f"expected rows that differ, found the same few {n} times")
    graph = partial(_anchor_sums, anchors=anchors, sigma=sigma, n_nearest=n_nearest)
    mass, gram = data.reduce(Sum(graph), "anchor graph")
    used = mass > 0
    return AnchorGraph(anchors[used], sigma, mass[used], gram[np.ix_(used, used)])


def _count(batch):
    return (len(batch.ids),)


def _reach(batch, anchors, n_nearest):
    distances = squared_centre_distances(batch.x.astype(np.float64), anchors)
    return (np.sqrt(np.partition(distances, n_nearest - 1, axis=1)[:, n_nearest - 1]).sum(),)


def _anchor_sums(batch, anchors, sigma, n_nearest):
    z = anchor_weights(batch.x.astype(np.float64), anchors, sigma, n_nearest)
    return z.sum(axis=0), z.T @ z
