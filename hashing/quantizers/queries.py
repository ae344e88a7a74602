"""The terms of queries in estimated distances."""

import numpy as np

from ..functions import check_shape
from ..mapreduce import Array, Metric
from ..unit_rows import unit_vectors

LARGEST = 15  # level of a 4-bit query


def checked_queries(queries: Array, metric: Metric, dim: int) -> Array:
    """Return queries (q, d) as float32, and of length one for the metric cosine.

    Raises ValueError for queries of another dimension or not finite, and for a query of zeros by cosine.
    """
    check_shape(queries, dim)
    x = np.ascontiguousarray(queries, np.float32)
    if not np.isfinite(x).all():
        raise ValueError("expected finite queries, found NaN or infinity")
    return unit_vectors(x) if metric == "cosine" else x


def constant_terms(p: Array, centre: Array, metric: Metric) -> tuple[Array, float]:
    """Return (f, |mean|^2) for p = q - mean (q, d) and the mean (d,), both rotated if rows are.

    f (q,) is |p|^2 for squared Euclidean distances, and -<q, mean> for the other metrics.
    """
    p, centre = p.astype(np.float64), centre.astype(np.float64)
    squared_mean = float(centre @ centre)
    return np.einsum("ij,ij->i", p, p) if metric == "euclidean" else -(p @ centre + squared_mean), squared_mean


def rounded(p: Array) -> tuple[Array, Array, Array]:
    """Return 4-bit levels (q, d) uint8, low (q,) and step (q,) of queries p (q, d), where low + step level is near p.

    Levels divide the range of a query evenly, and are rounded half up, as in Faiss.
    """
    values = p.astype(np.float64)
    low = values.min(axis=1)
    step = (values.max(axis=1) - low) / LARGEST
    levels = np.floor((values - low[:, None]) / np.where(step > 0, step, 1)[:, None] + 0.5)
    return levels.astype(np.uint8), low, step


def exact(p: Array) -> tuple[Array, Array, Array]:
    """Return p (q, d) itself as levels, with low 0 and step 1."""
    return p, np.zeros(len(p)), np.ones(len(p))
