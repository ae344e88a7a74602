"""Rows of a quantizer, and exact distances to compare its estimates with."""

import numpy as np

from hashing.mapreduce import Batch


def batch_of(function, x):
    return Batch(np.arange(len(x)), function.encode_rows(x))


def exact(x, q, metric):
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "euclidean":
        return ((q[:, None] - x) ** 2).sum(axis=2)
    if metric == "cosine":
        return 1 - q @ x.T / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(x, axis=1)
    return -q @ x.T
