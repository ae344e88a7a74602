"""Exact Hamming histograms, rows within a radius and nearest rows, by a scan over all pairs of queries and rows.

Codes are uint8 (n, B), B = ceil(n_bits / 8), n_bits from 1 to 4096, with zero padding as in hashing.bits. They are
scanned in blocks, so no array of queries x rows is ever allocated. Each function runs on one thread and releases the
GIL. Given torch tensors, all on one device, the functions return the same numbers as tensors on this device. On a GPU
they run as Triton kernels, or as matrix products if Triton is not installed. All functions raise ValueError for codes
of another shape, dtype or width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from ..mapreduce import Array
from .checks import MAX_BITS, check_codes, check_histogram, check_k, check_no_labels, check_radius
from .layout import BLOCK_BYTES, blocks, pad_to_words, read_only

if TYPE_CHECKING:
    from torch import Tensor

QUERIES_PER_SET = 64  # from this number of queries per distinct set of labels on, a scan for each set pays off
TOPK_BYTES = 1 << 20  # bytes of the candidates of topk at a time: half an L2 cache

Function = TypeVar("Function", bound=Callable[..., Any])


def accepts_tensors(function: Function) -> Function:
    """Pass torch tensors to the function of the same name in hashing.hamming.cuda or hashing.hamming.tensors."""

    @wraps(function)
    def dispatch(queries: Any, *args: Any, **kwargs: Any) -> Any:
        if not type(queries).__module__.startswith("torch"):  # a check that does not import torch
            return function(queries, *args, **kwargs)
        return getattr(tensor_functions(queries), function.__name__)(queries, *args, **kwargs)

    return cast(Function, dispatch)


def tensor_functions(queries: Tensor) -> ModuleType:
    """Return the module with the functions for a tensor: Triton kernels for a GPU, if Triton is installed."""
    if queries.is_cuda and find_spec("triton"):
        from . import cuda

        return cuda
    from . import tensors

    return tensors


@accepts_tensors
def histogram(
    queries: Array, database: Array, n_bits: int, query_labels: Array | None = None, labels: Array | None = None
) -> Array:
    """Count the rows, and the relevant rows, at each Hamming distance from each query.

    Parameters
    ----------
    queries, database
        (q, B) and (n, B) uint8.
    n_bits
        Length of the codes. The padding after it must be zero.
    query_labels, labels
        (q, w) and (n, w) uint64 from `layout.pack_labels`. A row is relevant if it shares a label with the query.

    Returns
    -------
    Array
        (2, q, n_bits + 1) int64: [0] counts all rows, [1] the relevant ones. Without labels, [1] is zero.

    Examples
    --------
    >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8)
    >>> labels = np.array([[1], [2], [1]], np.uint64)
    >>> histogram(codes[:1], codes, 2, labels[:1], labels)
    array([[[1, 1, 1]],
    <BLANKLINE>
           [[1, 0, 1]]])
    """
    if query_labels is None or labels is None:
        check_no_labels(query_labels, labels)
        return np.stack([total := _total(queries, database, n_bits), np.zeros_like(total)])
    check_histogram(queries, database, n_bits, query_labels, labels, 2)
    label_sets, set_of_query = np.unique(query_labels, axis=0, return_inverse=True)
    if len(label_sets) * QUERIES_PER_SET > len(queries):
        counts = graded_histogram(queries, database, n_bits, query_labels, labels, 2)
        counts[0] += counts[1]
        return counts
    # Queries with the same labels have the same relevant rows. Scan these, or the other rows if they are fewer.
    total, relevant = _total(queries, database, n_bits), np.zeros((len(queries), n_bits + 1), np.int64)
    for i, label_set in enumerate(label_sets):
        members, shares = set_of_query == i, (labels & label_set).any(axis=1)
        if 2 * shares.sum() <= len(shares):
            relevant[members] = _total(queries[members], database[shares], n_bits)
        else:
            relevant[members] = total[members] - _total(queries[members], database[~shares], n_bits)
    return np.stack([total, relevant])


def _total(queries: Array, database: Array, n_bits: int) -> Array:
    """Return (q, n_bits + 1) int64, the number of rows at each distance."""
    none = np.zeros((len(queries), 0), np.uint64), np.zeros((len(database), 0), np.uint64)
    total: Array = graded_histogram(queries, database, n_bits, *none, 1)[0]
    return total


@accepts_tensors
def graded_histogram(
    queries: Array, database: Array, n_bits: int, query_labels: Array, labels: Array, n_grades: int
) -> Array:
    """Count the rows of each grade at each Hamming distance. The grade of a row is its number of shared labels.

    Parameters are those of `histogram`, and n_grades from 1 to 65536 // (n_bits + 1).

    Returns
    -------
    Array
        (n_grades, q, n_bits + 1) int64: [g] counts the rows that share g labels; the last grade includes the rows that
        share more.
    """
    from . import kernels

    check_histogram(queries, database, n_bits, query_labels, labels, n_grades)
    counts = np.zeros((n_grades, len(queries), n_bits + 1), np.int64)
    query_parts, row_parts = (np.ascontiguousarray(words).view(np.uint16) for words in (query_labels, labels))
    used = query_parts.any(axis=0)  # the groups of 16 labels that any query has
    query_words, query_parts = pad_to_words(queries), read_only(query_parts[:, used])
    for rows, planes, size in blocks(database, len(queries), 2 * query_parts.shape[1]):
        kernels.histogram(query_words, planes, size, query_parts, read_only(row_parts[rows, used].T), counts)
    return counts


@accepts_tensors
def pair_distances(queries: Array, database: Array, query_rows: Array, rows: Array) -> Array:
    """Return (m,) int32, the distance of queries[query_rows[i]] from database[rows[i]] for each i of m."""
    check_codes(queries, database)
    out = np.empty(len(rows), np.int32)
    step = BLOCK_BYTES // queries.shape[1]
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        out[part] = np.bitwise_count(queries[query_rows[part]] ^ database[rows[part]]).sum(axis=1, dtype=np.int32)
    return out


@accepts_tensors
def count_within(queries: Array, database: Array, radius: int) -> Array:
    """Return (q,) int64, the number of rows within a radius of each query, the radius included."""
    from . import kernels

    check_codes(queries, database)
    check_radius(radius)
    counts, query_words = np.zeros(len(queries), np.int64), pad_to_words(queries)
    for _, planes, size in blocks(database, len(queries)):
        kernels.count_within(query_words, planes, size, np.uint16(min(radius, MAX_BITS)), counts)
    return counts


@accepts_tensors
def within(queries: Array, database: Array, radius: int) -> tuple[Array, Array, Array]:
    """Find the rows within a radius of each query, the radius included.

    Returns
    -------
    offsets
        (q + 1,) int64; the results of query i are those from offsets[i] to offsets[i + 1].
    positions
        (m,) int64, positions in the database, increasing within each query.
    distances
        (m,) int32.

    Examples
    --------
    >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8)
    >>> within(codes[:1], codes, 1)
    (array([0, 2]), array([0, 1]), array([0, 1], dtype=int32))
    """
    from . import kernels

    offsets = np.concatenate([[0], count_within(queries, database, radius).cumsum()])
    ends, query_words = offsets[:-1].copy(), pad_to_words(queries)
    positions, distances = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int32)
    limit = np.uint16(min(radius, MAX_BITS))
    for rows, planes, size in blocks(database, len(queries)):
        kernels.within(query_words, planes, size, rows.start, limit, ends, positions, distances)
    return offsets, positions, distances


@accepts_tensors
def topk(queries: Array, database: Array, k: int) -> tuple[Array, Array]:
    """Find the k nearest rows of each query, sorted by (distance, position).

    Returns
    -------
    distances
        (q, k) int32.
    positions
        (q, k) int64, positions in the database. If it has n < k rows, both results are (q, n).

    Examples
    --------
    >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8)
    >>> topk(codes[:1], codes, 2)
    (array([[0, 1]], dtype=int32), array([[0, 1]]))
    """
    from . import kernels

    check_codes(queries, database)
    check_k(k)
    k = min(k, len(database))
    capacity = k + max(k // 2, 48)
    out = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    step = max(1, TOPK_BYTES // (10 * capacity))
    for start in range(0, len(queries), step):
        query_words = pad_to_words(queries[start : start + step])
        shape = len(query_words), capacity
        distances, positions = np.full(shape, 65535, np.uint16), np.zeros(shape, np.int64)
        sizes, limits = np.zeros(shape[0], np.int64), np.full(shape[0], 65535, np.uint16)
        for rows, planes, size in blocks(database, len(queries)):
            kernels.topk(query_words, planes, size, rows.start, k, sizes, limits, distances, positions)
        order = np.argsort(distances, axis=1, kind="stable")[:, :k]
        out[0][start : start + step] = np.take_along_axis(distances, order, axis=1)
        out[1][start : start + step] = np.take_along_axis(positions, order, axis=1)
    return out
