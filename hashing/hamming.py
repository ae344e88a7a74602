"""Exact Hamming distances between packed codes (simple first version)."""

import numpy as np

from .mapreduce import Array


def pack_labels(y: Array) -> Array:
    """(n, c) multi-hot -> (n, w) uint64, w = ceil(c / 64)."""
    y = np.asarray(y)
    packed = np.packbits(y.astype(bool), axis=1, bitorder="little")
    words = np.zeros((len(y), -(-y.shape[1] // 64) * 8), np.uint8)
    words[:, : packed.shape[1]] = packed
    return words.view(np.uint64)


def histogram(queries, database, n_bits, query_labels=None, labels=None) -> Array:
    """(2, q, n_bits + 1) int64."""
    out = np.zeros((2, len(queries), n_bits + 1), np.int64)
    for i, query in enumerate(queries):
        d = np.bitwise_count(database ^ query).sum(1, dtype=np.int64)
        out[0, i] = np.bincount(d, minlength=n_bits + 1)
        if labels is not None:
            out[1, i] = np.bincount(d[(labels & query_labels[i]).any(1)], minlength=n_bits + 1)
    return out


def graded_histogram(queries, database, n_bits, query_labels, labels, n_grades) -> Array:
    """(n_grades, q, n_bits + 1) int64."""
    out = np.zeros((n_grades, len(queries), n_bits + 1), np.int64)
    for i, query in enumerate(queries):
        d = np.bitwise_count(database ^ query).sum(1, dtype=np.int64)
        grade = np.minimum(np.bitwise_count(labels & query_labels[i]).sum(1), n_grades - 1)
        np.add.at(out[:, i], (grade, d), 1)
    return out


def distances(queries, database, query_rows, rows) -> Array:
    """(m,) int32."""
    return np.bitwise_count(queries[query_rows] ^ database[rows]).sum(1, dtype=np.int32)


def count_within(queries, database, radius) -> Array:
    """(q,) int64."""
    return np.diff(within(queries, database, radius)[0])


def within(queries, database, radius):
    """(offsets (q + 1,), positions, distances)."""
    d = [np.bitwise_count(database ^ query).sum(1, dtype=np.int32) for query in queries]
    positions = [np.flatnonzero(row <= radius) for row in d]
    offsets = np.cumsum([0, *map(len, positions)])
    return offsets, np.concatenate(positions), np.concatenate([a[p] for a, p in zip(d, positions, strict=True)])


def topk(queries, database, k):
    """(distances (q, k) int32, positions (q, k) int64)."""
    d = np.array([np.bitwise_count(database ^ query).sum(1, dtype=np.int32) for query in queries])
    positions = np.argsort(d, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(d, positions, 1), positions
