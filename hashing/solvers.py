"""The linear algebra that methods share. Everything here runs on the driver, on one BLAS thread."""

import numpy as np

from .mapreduce import Array, one_blas_thread


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
