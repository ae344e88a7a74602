"""The inner loops of hashing.hamming.multi_index, compiled by Numba on first use and cached on disk.

Table j lists, for each value v of piece j of a code, the positions of the rows with this value in increasing order:
rows[j, starts[j, v] : starts[j, v + 1]]. Row j of pieces (m, 3) int64 is (word, shift, length): piece j consists of
`length` bits of this word from bit `shift` on.

Step t looks up, in table t mod m, all values at distance t div m from the query's piece. There are none if the piece
has fewer bits than that distance. After step t, each row within distance t of the query has been visited. Only the
first visit of a row counts.
"""

import numpy as np
from numba import njit

from .simd import popcount

DISTANCE = np.uint64(40)  # a row at a distance is one number, distance * 2^40 + position, which sorts as the pair does
VALUE_COST, ROW_COST = 50.0, 30.0  # nanoseconds to look up a value, and to visit a row


@njit(nogil=True)
def piece(code, pieces, j):
    """Return the value of one piece of a code (W,)."""
    return (code[pieces[j, 0]] >> np.uint64(pieces[j, 1])) & np.uint64((1 << pieces[j, 2]) - 1)


@njit(nogil=True, cache=True)
def build(codes, pieces, starts, rows):
    """Fill starts (m, 2^length + 1), initially zero, and rows (m, n) of all tables, for codes (n, W) uint64."""
    for j in range(len(pieces)):
        counts = starts[j]
        for i in range(len(codes)):
            counts[piece(codes[i], pieces, j) + np.uint64(1)] += 1
        for value in range(1, len(counts)):
            counts[value] += counts[value - 1]
        ends = counts[:-1].copy()
        for i in range(len(codes)):
            value = piece(codes[i], pieces, j)
            rows[j, ends[value]] = i
            ends[value] += 1


@njit(nogil=True)
def following(value):
    """Return the next larger number with the same number of ones (Gosper's hack)."""
    low = value & (~value + np.uint64(1))
    higher = value + low
    return higher | (((value ^ higher) >> np.uint64(2)) // low)


@njit(nogil=True)
def was_visited(query, codes, row, pieces, step):
    """Return whether an earlier step has visited a row."""
    for j in range(len(pieces)):
        word, ones = pieces[j, 0], np.uint64((1 << pieces[j, 2]) - 1)
        differing = ((query[word] ^ codes[row, word]) >> np.uint64(pieces[j, 1])) & ones
        if np.int64(popcount(differing)) * len(pieces) + j < step:
            return True
    return False


@njit(nogil=True)
def visit(query, codes, pieces, starts, rows, step, budget, limit, out, size, k):
    """Visit the rows of one step, and return the new budget and size; the budget is negative if it did not suffice.

    Rows below the limit are added to the first `size` entries of out. With k, out is a max-heap of the k smallest
    entries; if k is 0, it is a list, and rows that do not fit are only counted.
    """
    j, distance = step % len(pieces), step // len(pieces)
    if distance > pieces[j, 2]:
        return budget, size
    own, flips, end = piece(query, pieces, j), np.uint64((1 << distance) - 1), np.uint64(1 << pieces[j, 2])
    while flips < end:
        first, last = starts[j, own ^ flips], starts[j, (own ^ flips) + np.uint64(1)]
        budget -= VALUE_COST + ROW_COST * (last - first)
        if budget < 0:
            break
        for at in range(first, last):
            row, total = rows[j, at], np.uint64(0)
            for w in range(len(query)):
                total += np.uint64(popcount(query[w] ^ codes[row, w]))
            found = (total << DISTANCE) | np.uint64(row)
            if found >= limit or (k and size == k and found >= out[0]) or was_visited(query, codes, row, pieces, step):
                continue
            if k:
                size = push(out, size, k, found)
            else:
                if size < len(out):
                    out[size] = found
                size += 1
        if not distance:
            break
        flips = following(flips)
    return budget, size


@njit(nogil=True)
def push(heap, size, k, value):
    """Add a value to a max-heap of at most k values, replacing its maximum if it is full. Return the new size."""
    if size < k:
        at = size
        while at and heap[(at - 1) // 2] < value:
            heap[at], at = heap[(at - 1) // 2], (at - 1) // 2
        heap[at] = value
        return size + 1
    at = 0
    while 2 * at + 1 < k:
        child = 2 * at + 1
        if child + 1 < k and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= value:
            break
        heap[at], at = heap[child], child
    heap[at] = value
    return size


@njit(nogil=True, cache=True)
def topk(queries, codes, pieces, starts, rows, budget, heaps, done):
    """Write the k nearest rows of each query to heaps (q, k), unsorted, and to done (q,) whether the budget sufficed.

    A query may use `budget` nanoseconds.
    """
    k = heaps.shape[1]
    for i in range(len(queries)):
        left, size, step = budget, 0, 0
        while left >= 0 and (size < k or np.int64(heaps[i, 0] >> DISTANCE) >= step):
            left, size = visit(queries[i], codes, pieces, starts, rows, step, left, np.uint64(2**63), heaps[i], size, k)
            step += 1
        done[i] = left >= 0


@njit(nogil=True, cache=True)
def within(queries, codes, pieces, starts, rows, radius, budget, out, offsets, done):
    """Write the rows within a radius of query i to out from offsets[i] on, and to done whether the budget sufficed.

    If out is empty, only write the number of rows of query i to offsets[i + 1].
    """
    limit = np.uint64(radius + 1) << DISTANCE
    for i in range(len(queries)):
        own = out[offsets[i] : offsets[i + 1]] if len(out) else out
        left, size = budget, 0
        for step in range(radius + 1):
            if left >= 0:
                left, size = visit(queries[i], codes, pieces, starts, rows, step, left, limit, own, size, 0)
        done[i] = left >= 0
        if not len(out):
            offsets[i + 1] = size
