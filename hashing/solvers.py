"""The algorithms that methods share: linear algebra on the driver, on one BLAS thread, and discrete steps over rows."""

from collections.abc import Callable
from functools import partial

import numpy as np

from .bits import sgn
from .mapreduce import Array, Batch, Data, Sum, one_blas_thread


def top_eigenvectors(matrix: Array, k: int) -> Array:
    """The k eigenvectors of the largest eigenvalues of a symmetric (d, d) matrix, as columns (d, k), largest first.

    An eigenvector's sign is arbitrary; here its entry of largest magnitude is positive, so that runs agree.
    """
    if k > len(matrix):
        raise ValueError(f"expected n_bits <= d, the vectors' dimension, found n_bits = {k}, d = {len(matrix)}")
    with one_blas_thread():
        vectors = np.linalg.eigh(matrix)[1][:, ::-1][:, :k]
    return vectors * np.sign(vectors[np.abs(vectors).argmax(0), np.arange(k)])


def procrustes(c: Array) -> Array:
    """The rotation R (k, k) that maximises tr(RC): for C = B'V it minimises |B - VR|_F (Schönemann 1966)."""
    with one_blas_thread():
        u, _, vt = np.linalg.svd(c)
        return (u @ vt).T


def random_rotation(k: int, rng: np.random.Generator) -> Array:
    """An orthogonal (k, k) matrix, uniform in the sense of Haar (Mezzadri 2007)."""
    with one_blas_thread():
        q, r = np.linalg.qr(rng.standard_normal((k, k)))
    return q * np.sign(np.diag(r))


def quantizing_rotation(projected: Data, n_bits: int, n_iter: int, seed: int) -> Array:
    """R (n_bits, n_bits), the rotation that minimises |B - VR|_F, by alternating B = sgn(VR) and Procrustes.

    The rows x of `projected` are V (n, n_bits). Source: ITQ, Gong & Lazebnik, CVPR 2011, section 3.
    """
    rotation = random_rotation(n_bits, np.random.default_rng(seed))
    for i in range(n_iter):
        (c,) = projected.reduce(Sum(partial(_alignment, rotation=rotation)), f"rotation {i + 1} of {n_iter}")
        rotation = procrustes(c)
    return rotation


def _alignment(batch: Batch, rotation: Array) -> tuple[Array]:
    """B'V (n_bits, n_bits), with B = sgn(VR)."""
    return (sgn(batch.x @ rotation).T @ batch.x,)


def discrete_descent(b: Array, q: Array, gram: Array, sweeps: int) -> Array:
    """B (n, n_bits) in {-1, +1} of a lower tr(BGB') - 2 tr(BQ'), bit by bit with the others held, from b.

    q is (n, n_bits), gram G (n_bits, n_bits), symmetric. Each row is solved by itself; no step raises its objective.
    Source: discrete cyclic coordinate descent, Shen et al., Supervised discrete hashing, CVPR 2015, section 3.3.
    """
    b = b.astype(np.float64)
    for _ in range(sweeps):
        before = b.copy()
        for k in range(b.shape[1]):
            b[:, k] = sgn(q[:, k] - b @ gram[:, k] + b[:, k] * gram[k, k])
        if (b == before).all():
            break
    return b


def lbfgs(value_and_gradient: Callable[[Array], tuple[float, Array]], start: Array, n_iter: int) -> Array:
    """The parameters (p,) float64 after at most n_iter iterations of L-BFGS (Nocedal, 1980), by SciPy."""
    from scipy.optimize import minimize

    with one_blas_thread():
        return minimize(
            value_and_gradient, start, jac=True, method="L-BFGS-B", options={"maxiter": n_iter, "maxfun": 2 * n_iter}
        ).x
