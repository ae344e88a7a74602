"""The inner loops of hashing.neighbours.multi_index, compiled by Numba on first use and cached on disk.

Table j lists, for each value v of piece j of a code, the positions of the rows with this value in increasing order:
rows[j, starts[j, v] : starts[j, v + 1]]. Row j of pieces (m, 3) int64 is (word, shift, length): piece j consists of
`length` bits of this word from bit `shift` on.

A search goes through several parts with their own tables. Row p of parts (P, 8) int64 is the range of the pieces of
part p in an array of all pieces, the length of a row of its starts, its number of rows, and the addresses of its ids,
words, starts and rows, because Numba would compile a function for each number of arrays.

Step t looks up, in table t mod m, all values at distance t div m from the query's piece. There are none if the piece
has fewer bits than that distance. After step t, each row of the part within distance t of the query has been visited.
Only the first visit of a row counts.
"""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from ..hamming.simd import popcount

# Nanoseconds of one step in a part, of looking up a value, and of visiting a row: benchmarks/multi_index.py times them.
STEP_COST, VALUE_COST, ROW_COST = 300.0, 50.0, 30.0


def array_at(kind):
    """Return an intrinsic that gives the memory at an address as elements of one type."""

    @intrinsic
    def at(typing, address):
        def codegen(context, builder, signature, args):
            return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(address), codegen

    return at


int64_at, uint64_at, uint32_at = array_at(types.int64), array_at(types.uint64), array_at(types.uint32)


@njit(nogil=True)
def piece(code, pieces, j):
    """Return the value of one piece of a code (W,)."""
    return (code[pieces[j, 0]] >> np.uint64(pieces[j, 1])) & np.uint64((1 << pieces[j, 2]) - 1)


@njit(nogil=True, cache=True)
def build_tables(codes, pieces, starts, rows):
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
def was_visited(query, words, row, pieces, step):
    """Return whether an earlier step has visited a row."""
    for j in range(len(pieces)):
        word, ones = pieces[j, 0], np.uint64((1 << pieces[j, 2]) - 1)
        differing = ((query[word] ^ words[row * len(query) + word]) >> np.uint64(pieces[j, 1])) & ones
        if np.int64(popcount(differing)) * len(pieces) + j < step:
            return True
    return False


@njit(nogil=True)
def visit(query, part, all_pieces, step, budget, radius, distances, ids, size, k):
    """Visit the rows of one step in a part, and return the new budget and size. A negative budget has run out.

    Rows within the radius are added to the first `size` entries of distances and ids. With k, these are a max-heap of
    the k smallest pairs; if k is 0, they are a list, and rows that do not fit are only counted.
    """
    pieces = all_pieces[part[0] : part[1]]
    j, distance = step % len(pieces), step // len(pieces)
    if distance > pieces[j, 2]:
        return budget, size
    all_ids, words = int64_at(part[4]), uint64_at(part[5])
    starts, rows = uint32_at(part[6] + 4 * j * part[2]), uint32_at(part[7] + 4 * j * part[3])
    budget -= STEP_COST
    own, flips, end = piece(query, pieces, j), np.uint64((1 << distance) - 1), np.uint64(1 << pieces[j, 2])
    while flips < end:
        first, last = np.int64(starts[own ^ flips]), np.int64(starts[(own ^ flips) + np.uint64(1)])
        budget -= VALUE_COST + ROW_COST * (last - first)
        if budget < 0:
            break
        for at in range(first, last):
            row, total = np.int64(rows[at]), np.int64(0)
            for w in range(len(query)):
                total += np.int64(popcount(query[w] ^ words[row * len(query) + w]))
            if total > radius or (k and size == k and total > distances[0]):
                continue
            if was_visited(query, words, row, pieces, step):
                continue
            if k:
                size = push(distances, ids, size, k, total, all_ids[row])
            else:
                if size < len(ids):
                    distances[size], ids[size] = total, all_ids[row]
                size += 1
        if not distance:
            break
        flips = following(flips)
    return budget, size


@njit(nogil=True)
def is_less(distances, ids, i, distance, id):
    """Return whether entry i is less than a pair."""
    return distances[i] < distance or (distances[i] == distance and ids[i] < id)


@njit(nogil=True)
def push(distances, ids, size, k, distance, id):
    """Add a pair to a max-heap of at most k pairs, or replace the maximum of a full one. Return the new size."""
    if size < k:
        at = size
        while at and is_less(distances, ids, (at - 1) // 2, distance, id):
            distances[at], ids[at] = distances[(at - 1) // 2], ids[(at - 1) // 2]
            at = (at - 1) // 2
        distances[at], ids[at] = distance, id
        return size + 1
    if is_less(distances, ids, 0, distance, id):
        return size
    at = 0
    while 2 * at + 1 < k:
        child = 2 * at + 1
        if child + 1 < k and is_less(distances, ids, child, distances[child + 1], ids[child + 1]):
            child += 1
        if is_less(distances, ids, child, distance, id):
            break
        distances[at], ids[at] = distances[child], ids[child]
        at = child
    distances[at], ids[at] = distance, id
    return size


@njit(nogil=True, cache=True)
def topk(queries, parts, pieces, budget, distances, ids, done):
    """Write the k nearest rows of each query to distances and ids (q, k), unsorted; k is at most the number of rows.

    A query may use `budget` nanoseconds, and done (q,) receives whether they sufficed.
    """
    k = distances.shape[1]
    for i in range(len(queries)):
        left, size, step = budget, 0, 0
        while left >= 0 and (size < k or distances[i, 0] >= step):
            for p in range(len(parts)):
                if left >= 0:
                    left, size = visit(
                        queries[i], parts[p], pieces, step, left, np.int64(2**31), distances[i], ids[i], size, k
                    )
            step += 1
        done[i] = left >= 0


@njit(nogil=True, cache=True)
def within(queries, parts, pieces, radius, budget, distances, ids, ends, done):
    """Write the rows within a radius of query i to distances and ids up to ends[i], and to done as topk does.

    If ids is empty, only write the number of rows of query i to ends[i].
    """
    for i in range(len(queries)):
        mine = slice(ends[i - 1] if i else 0, ends[i]) if len(ids) else slice(0, 0)
        left, size = budget, 0
        for p in range(len(parts)):
            for step in range(radius + 1):
                if left >= 0:
                    left, size = visit(
                        queries[i], parts[p], pieces, step, left, radius, distances[mine], ids[mine], size, 0
                    )
        done[i] = left >= 0
        if not len(ids):
            ends[i] = size
