"""Hamming distances between packed codes: exact histograms, balls and nearest rows, by brute force.

Codes are uint8 (n, B), B = ceil(n_bits / 8), n_bits from 1 to 4096, with zero padding as in hashing.bits. The codes are
visited in blocks, so that nothing of the size queries x rows is ever held. Everything runs on one thread and lets go of
the interpreter's lock. Given torch tensors, on a GPU or not, the functions return the same numbers as tensors.
"""

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np

from ..mapreduce import Array
from .checks import MAX_BITS, check_codes, check_histogram

BLOCK = 1 << 20  # bytes of codes that all queries visit before the next: half a level 2 cache
LINE = 64  # bytes of a line of cache: vectors that begin with one are read a sixth faster than those across two
FEW = 64  # queries a set of labels, from which on it pays to count the rows that are relevant to the set apart
MANY = 64  # queries from which on it pays to move codes of one word there
TOPK_BYTES = 1 << 20  # bytes of candidates that topk holds, for the same reason


def pack_labels(y: Array) -> Array:
    """(n, c) multi-hot labels -> (n, w) uint64, w = ceil(c / 64)."""
    if y.ndim != 2:
        raise ValueError(f"expected multi-hot labels (n, c), found shape {y.shape}")
    words = np.zeros((len(y), -(-y.shape[1] // 64) * 8), np.uint8)
    packed = np.packbits(y.astype(bool), axis=1, bitorder="little")
    words[:, : packed.shape[1]] = packed
    return words.view(np.uint64)


def or_of_tensors(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, and for torch tensors the one of that name in hashing.hamming_torch."""

    @wraps(function)
    def chosen(queries: Any, *others: Any, **named: Any) -> Any:
        if not type(queries).__module__.startswith("torch"):
            return function(queries, *others, **named)
        from . import tensors

        return getattr(tensors, function.__name__)(queries, *others, **named)

    return chosen


@or_of_tensors
def histogram(
    queries: Array, database: Array, n_bits: int, query_labels: Array | None = None, labels: Array | None = None
) -> Array:
    """(2, q, n_bits + 1) int64: how many rows lie at each distance, [0] all of them, [1] those that share a label.

    Labels are uint64 (q, w) and (n, w) from pack_labels; without them [1] is zero.
    """
    if query_labels is None and labels is None:
        return np.stack([total := _total(queries, database, n_bits), np.zeros_like(total)])
    check_histogram(queries, database, n_bits, query_labels, labels, 2)
    sets, which = np.unique(query_labels, axis=0, return_inverse=True)
    if len(sets) * FEW > len(queries):
        counts = graded_histogram(queries, database, n_bits, query_labels, labels, 2)
        counts[0] += counts[1]
        return counts
    # Queries of the same labels have the same relevant rows: those, or the others if they are fewer, are visited again.
    total, found = _total(queries, database, n_bits), np.zeros((len(queries), n_bits + 1), np.int64)
    for i, asked in enumerate(sets):
        mine, relevant = which == i, (labels & asked).any(axis=1)
        if 2 * relevant.sum() <= len(relevant):
            found[mine] = _total(queries[mine], database[relevant], n_bits)
        else:
            found[mine] = total[mine] - _total(queries[mine], database[~relevant], n_bits)
    return np.stack([total, found])


def _total(queries: Array, database: Array, n_bits: int) -> Array:
    """(q, n_bits + 1) int64: how many rows lie at each distance."""
    none = np.zeros((len(queries), 0), np.uint64), np.zeros((len(database), 0), np.uint64)
    return graded_histogram(queries, database, n_bits, *none, 1)[0]


@or_of_tensors
def graded_histogram(
    queries: Array, database: Array, n_bits: int, query_labels: Array, labels: Array, n_grades: int
) -> Array:
    """(n_grades, q, n_bits + 1) int64: at [g] the rows that share g labels, at the last grade that many or more."""
    from . import kernels

    check_histogram(queries, database, n_bits, query_labels, labels, n_grades)
    counts = np.zeros((n_grades, len(queries), n_bits + 1), np.int64)
    asked, given = (np.ascontiguousarray(part).view(np.uint16) for part in (query_labels, labels))
    used = asked.any(axis=0)  # of each 16 labels: is one of them a query's
    query_words, asked = words(queries), frozen(asked[:, used])
    for rows, planes, size in blocks(database, len(queries), 2 * asked.shape[1]):
        kernels.histogram(query_words, planes, size, asked, frozen(given[rows, used].T), counts)
    return counts


@or_of_tensors
def distances(queries: Array, database: Array, query_rows: Array, rows: Array) -> Array:
    """(m,) int32: the distance of query query_rows[i] from row rows[i], for each i of m."""
    check_codes(queries, database)
    out = np.empty(len(rows), np.int32)
    step = BLOCK // queries.shape[1]
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        out[part] = np.bitwise_count(queries[query_rows[part]] ^ database[rows[part]]).sum(axis=1, dtype=np.int32)
    return out


@or_of_tensors
def count_within(queries: Array, database: Array, radius: int) -> Array:
    """(q,) int64: how many rows lie within a radius of each query."""
    from . import kernels

    check_codes(queries, database, radius)
    counts, query_words = np.zeros(len(queries), np.int64), words(queries)
    for _, planes, size in blocks(database, len(queries)):
        kernels.count_within(query_words, planes, size, np.uint16(min(radius, MAX_BITS)), counts)
    return counts


@or_of_tensors
def within(queries: Array, database: Array, radius: int) -> tuple[Array, Array, Array]:
    """The rows within a radius of each query: offsets (q + 1,) int64, positions int64, distances int32.

    Query i has positions[offsets[i] : offsets[i + 1]], in increasing order.
    """
    from . import kernels

    offsets = np.concatenate([[0], count_within(queries, database, radius).cumsum()])
    ends, query_words = offsets[:-1].copy(), words(queries)
    positions, found = np.empty(offsets[-1], np.int64), np.empty(offsets[-1], np.int32)
    for rows, planes, size in blocks(database, len(queries)):
        kernels.within(query_words, planes, size, rows.start, np.uint16(min(radius, MAX_BITS)), ends, positions, found)
    return offsets, positions, found


@or_of_tensors
def topk(queries: Array, database: Array, k: int) -> tuple[Array, Array]:
    """The nearest rows of each query: distances (q, k) int32, positions (q, k) int64.

    Sorted by (distance, position); of a database of fewer than k rows all of them, in as many columns.
    """
    from . import kernels

    check_codes(queries, database)
    if k < 1:
        raise ValueError(f"expected k >= 1, found {k}")
    k = min(k, len(database))
    room = k + max(k // 2, 48)
    out = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    step = max(1, TOPK_BYTES // (10 * room))
    for start in range(0, len(queries), step):
        query_words = words(queries[start : start + step])
        shape = len(query_words), room
        found, positions = np.full(shape, 65535, np.uint16), np.zeros(shape, np.int64)
        sizes, limits = np.zeros(shape[0], np.int64), np.full(shape[0], 65535, np.uint16)
        for rows, planes, size in blocks(database, len(queries)):
            kernels.topk(query_words, planes, size, rows.start, k, sizes, limits, found, positions)
        order = np.argsort(found, axis=1, kind="stable")[:, :k]
        out[0][start : start + step] = np.take_along_axis(found, order, axis=1)
        out[1][start : start + step] = np.take_along_axis(positions, order, axis=1)
    return out


def blocks(database: Array, n_queries: int, extra: int = 0) -> Iterator[tuple[slice, Array, int]]:
    """Rows that fill BLOCK with `extra` bytes each, their planes (W, n * size) as in hamming.kernels, and the size.

    The planes hold until the next block.
    """
    step = max(4096, BLOCK // (database.shape[1] + extra)) // LINE * LINE
    memory = np.empty(0, np.uint8)
    for start in range(0, len(database), step):
        rows = slice(start, min(start + step, len(database)))
        codes = words(database[rows])
        size = min(codes.shape[1], 8)
        if size == codes.shape[1] and n_queries < MANY:
            yield rows, codes.reshape(1, -1), size
            continue
        if len(memory) < codes.size:
            memory = np.empty(codes.size + LINE, np.uint8)
            memory = memory[-memory.ctypes.data % LINE :]
        planes, word = memory[: codes.size].reshape(-1, len(codes) * size), f"u{size}"
        planes.view(word)[:] = codes.view(word).T
        yield rows, frozen(planes), size


def words(codes: Array) -> Array:
    """Codes zero-padded to 2, 4 or a multiple of 8 bytes."""
    width = codes.shape[1]
    wide = next((size for size in (2, 4) if width <= size), -(-width // 8) * 8)
    return frozen(np.pad(codes, ((0, 0), (0, wide - width))) if wide > width else codes)


def frozen(array: Array) -> Array:
    """Contiguous and read-only, as every array is that the kernels read: to Numba these are parts of its type."""
    array = np.ascontiguousarray(array)[:]
    array.flags.writeable = False
    return array
