"""Algorithms that methods share: linear algebra on the driver, on one BLAS thread, and discrete steps over rows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from .bits import sgn
from .blas import one_blas_thread
from .mapreduce import Array, Batch, Data, Sum, Vectors

ROWS = 2048  # per block; blocks of this size stay in the CPU cache


def bits_within_dim(method: Any, dim: int) -> None:
    """Raise ValueError if a method whose bits are orthogonal directions has more bits than dimensions."""
    _check_directions(method.n_bits, dim)


def _check_directions(k: int, d: int) -> None:
    if k > d:
        raise ValueError(f"expected n_bits <= d, the vectors' dimension, found n_bits = {k}, d = {d}: ask for fewer")


def top_eigenvectors(matrix: Array, k: int) -> Array:
    """Return the eigenvectors (d, k) of the k largest eigenvalues of a symmetric (d, d) matrix, largest first.

    The sign of an eigenvector is arbitrary; its entry of largest magnitude is made positive, so that runs agree.
    Raises ValueError where k > d.
    """
    _check_directions(k, len(matrix))
    with one_blas_thread():
        vectors = np.linalg.eigh(matrix)[1][:, ::-1][:, :k]
    signed: Array = vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(k)])
    return signed


def principal_directions(cov: Array, k: int) -> Array:
    """Return the k orthonormal directions (d, k) of largest variance, given the covariance (d, d).

    Raises ValueError if the rows vary in fewer than k directions; the others would be rounding errors.
    """
    directions = top_eigenvectors(cov, k)
    variances = np.einsum("ij,ij->j", directions, cov @ directions)
    if (vary := int((variances > 1e-9 * variances[0]).sum())) < k:
        raise ValueError(f"expected n_bits <= the directions in which rows vary, found {vary} for {k} bits")
    return directions


def procrustes(c: Array) -> Array:
    """Return the rotation R (k, k) that maximises tr(RC): for C = B'V it minimises |B - VR|_F (Schönemann 1966)."""
    with one_blas_thread():
        u, _, vt = np.linalg.svd(c)
        rotation: Array = (u @ vt).T
    return rotation


def random_directions(d: int, k: int, rng: np.random.Generator) -> Array:
    """Return k <= d random orthonormal columns (d, k), distributed by the Haar measure (Mezzadri 2007)."""
    with one_blas_thread():
        q, r = np.linalg.qr(rng.standard_normal((d, k)))
    directions: Array = q * np.sign(np.diag(r))
    return directions


def projected_rows(data: Data, mean: Array, directions: Array) -> Data:
    """Return the centred rows on some directions (d, k), (n, k) float32, stored with their shards, without labels."""
    return data.map_rows(partial(_projected, mean=mean, directions=directions), "projected rows")


def _projected(batch: Batch, mean: Array, directions: Array) -> Batch:
    return Batch(batch.ids, ((batch.x - mean) @ directions).astype(np.float32))


def quantizing_rotation(projected: Data[Vectors], n_bits: int, n_iter: int, seed: int | None) -> Array:
    """Return the rotation R (n_bits, n_bits) that locally minimises |B - VR|_F, alternating B = sgn(VR) and Procrustes.

    The rows x of `projected` are V (n, n_bits). The iterations start from a random rotation, or from the identity if
    seed is None; none of them increases the error. Source: ITQ, Gong & Lazebnik, CVPR 2011, section 3.
    """
    rotation = np.eye(n_bits) if seed is None else random_directions(n_bits, n_bits, np.random.default_rng(seed))
    for i in range(n_iter):
        (c,) = projected.reduce(Sum(partial(_alignment, rotation=rotation)), f"rotation {i + 1} of {n_iter}")
        rotation = procrustes(c)
    return rotation


def _alignment(batch: Vectors, rotation: Array) -> tuple[Array]:
    """Return B'V (n_bits, n_bits) with B = sgn(VR): products in the precision of V, summed in float64."""
    c, rotation = np.zeros(rotation.shape), rotation.astype(batch.x.dtype)
    memory = np.empty((ROWS, len(c)), batch.x.dtype)  # allocating it for each block would take as long as the products
    for start in range(0, len(batch.x), ROWS):
        v = batch.x[start : start + ROWS]
        b = np.matmul(v, rotation, out=memory[: len(v)])
        np.greater_equal(b, 0, out=b)
        b *= 2
        b -= 1  # sgn(b), in place
        c += b.T @ v
    return (c,)


def discrete_descent(b: Array, q: Array, gram: Array, sweeps: int) -> Array:
    """Return codes B (n, n_bits) in {-1, +1} that lower tr(BGB') - 2 tr(BQ'), starting from b.

    Optimizes one bit at a time with the others fixed, for at most `sweeps` passes over the bits. q is (n, n_bits); gram
    G (n_bits, n_bits) is symmetric. Rows are independent, and no step increases the objective of a row.
    Source: discrete cyclic coordinate descent, Shen et al., Supervised discrete hashing, CVPR 2015, section 3.3.
    """
    out = np.empty(b.shape)
    for start in range(0, len(b), ROWS):  # transposed: the values of one bit are contiguous
        rows = slice(start, start + ROWS)
        z, target = b[rows].T.astype(np.float64), np.ascontiguousarray(q[rows].T, np.float64)
        for _ in range(sweeps):
            before = z.copy()
            for k in range(len(z)):
                z[k] = sgn(target[k] - gram[k] @ z + z[k] * gram[k, k])
            if (z == before).all():
                break
        out[rows] = z.T
    return out


def best_codes(q: Array, gram: Array) -> Array:
    """Return codes B (n, n_bits) in {-1, +1} that minimise tr(BGB') - 2 tr(BQ'), by trying all 2^n_bits codes.

    Among equally good codes the one of the smallest index is returned.
    """
    n_bits = len(gram)
    codes = np.where(np.arange(2**n_bits)[:, None] >> np.arange(n_bits) & 1, 1.0, -1.0)
    own = np.einsum("ij,jk,ik->i", codes, gram, codes)
    out = np.empty(q.shape)
    for start in range(0, len(q), ROWS):
        rows = slice(start, start + ROWS)
        out[rows] = codes[(own - 2 * (q[rows] @ codes.T)).argmin(axis=1)]
    return out


def ridge(gram: Array, cross: Array, weight: float) -> tuple[Array, Array]:
    """Return W (k, d) and c (d,) that minimise |T - AW - 1c'|^2 + n weight |W|^2.

    gram is [A 1]'[A 1] (k + 1, k + 1), whose last entry is n; cross is [A 1]'T (k + 1, d). Directions that no row uses
    get zero weight.
    """
    penalty = weight * gram[-1, -1] * np.diag(np.arange(len(gram)) < len(gram) - 1)
    with one_blas_thread():
        solution = np.linalg.lstsq(gram + penalty, cross, rcond=None)[0]
    return solution[:-1], solution[-1]


def nearest_balanced(scatter: Array, n: float) -> Array:
    """Return M (2k, k) such that Y = J[B R]M maximises tr(B'Y) among all Y (n, k) with 1'Y = 0 and Y'Y = nI.

    J centres the columns of B (n, k) and R (n, k). R completes B where the rank of JB is lower than k; JR must have
    rank k. scatter (2k, 2k) is [B R]'J[B R]. With JB = USV', Y = sqrt(n) [U rest]V'.
    Source: Liu, Mu, Kumar & Chang, Discrete graph hashing, NIPS 2014, section 3.
    """
    k = len(scatter) // 2
    with one_blas_thread():
        values, v = np.linalg.eigh(scatter[:k, :k])
        lost = values < 1e-9 * n
        u = np.zeros((2 * k, k))
        u[:k, ~lost] = v[:, ~lost] / np.sqrt(values[~lost])
        if lost.any():
            rest = np.eye(2 * k)[:, k:]
            rest = rest - u @ (u.T @ (scatter @ rest))  # orthogonal to U
            values, e = np.linalg.eigh(rest.T @ scatter @ rest)
            u[:, lost] = rest @ (e[:, -lost.sum() :] / np.sqrt(values[-lost.sum() :]))
        mix: Array = np.sqrt(n) * u @ v.T
    return mix


def balanced_partition(variances: Array, parts: int) -> Array:
    """Return (parts, width) positions that divide the variances (d,), given in descending order, into balanced parts.

    Each variance is assigned to the part that is not full and has the smallest sum of logarithms. width is d // parts;
    the d % parts smallest variances are left out.
    Source: Ge, He, Ke & Sun, Optimized product quantization, CVPR 2013, section 3.2.
    """
    width = len(variances) // parts
    logs = np.log(variances[: width * parts])
    logs = logs - logs.min(initial=np.inf) + 1  # positive
    dealt: list[list[int]] = [[] for _ in range(parts)]
    for i in range(width * parts):
        min((part for part in dealt if len(part) < width), key=lambda part: logs[part].sum()).append(i)
    return np.array(dealt, np.intp)


def lbfgs(value_and_gradient: Callable[[Array], tuple[float, Array]], start: Array, n_iter: int) -> Array:
    """Return the parameters (p,) float64 after at most n_iter iterations of SciPy's L-BFGS (Nocedal, 1980).

    It stops early when an iteration improves the value by less than 1e-9 max(|value|, 1). The size of the gradient is
    not used as a criterion, because it depends on the units of the parameters.
    """
    from scipy.optimize import minimize

    with one_blas_thread():
        options = {"maxiter": n_iter, "maxfun": 2 * n_iter, "gtol": 0.0, "ftol": 1e-9}
        end: Array = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options).x
    return end
