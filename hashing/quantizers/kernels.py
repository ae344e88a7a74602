"""The inner loops of the quantizers, compiled by Numba on first use and cached on disk.

Sums are float64 in the order of the coordinates, without fused operations, so results are the same on every machine.
"""

import numpy as np
from numba import njit

from ..hamming.simd import popcount, use_wide_vectors

TILE = 1024  # rows whose distances are computed at a time


@njit(nogil=True, cache=True)
def quantize_rotated(v, planes, centre, u, correctives):
    """Fill u (n, planes * d) with bits as -1 and +1, the most significant plane first, and correctives (n, 3).

    v (n, d) are the rotated rows, and centre (d,) the rotated mean. See hashing.quantizers.rabitq.
    """
    n, d = v.shape
    most = (1 << (planes - 1)) - 1  # the largest magnitude
    level, size = np.zeros(d, np.int64), np.empty(d)
    times, places = np.empty(d * most), np.empty(d * most, np.int64)
    for i in range(n):
        norm = along = 0.0
        for j in range(d):
            value = np.float64(v[i, j])
            norm += value * value
            along += value * np.float64(centre[j])
            size[j] = abs(value)
        magnitudes(size, most, times, places, level)
        product = 0.0
        for j in range(d):
            product += size[j] * (level[j] + 0.5)
            positive = v[i, j] >= 0
            code = most + 1 + level[j] if positive else most - level[j]
            for plane in range(planes):
                one = code >> (planes - 1 - plane) & 1
                u[i, plane * d + j] = np.float32(2 * one - 1)
        correctives[i, 0] = np.float32(norm / product if product > 0 else 0.0)
        correctives[i, 1] = np.float32(norm)
        correctives[i, 2] = np.float32(along)


@njit(nogil=True)
def magnitudes(size, most, times, places, level):
    """Fill level (d,) with the integers 0 to `most` for which level + 1/2 has the largest cosine with size (d,).

    The best levels are floor(t size) for some t. At t = m / size_j, level j rises to m; these values of t are visited
    in increasing order.
    """
    d, count = len(size), 0
    product = squares = 0.0
    for j in range(d):
        level[j] = 0
        product += 0.5 * size[j]
        squares += 0.25
        for m in range(1, most + 1):
            if size[j] > 0:
                times[count], places[count] = m / size[j], j
                count += 1
    if not count:
        return
    order = np.argsort(times[:count])
    best, stop = product * product / squares, 0
    for step in range(count):
        j = places[order[step]]
        product += size[j]
        squares += 2 * level[j] + 2
        level[j] += 1
        if product * product > best * squares:
            best, stop = product * product / squares, step + 1
    for j in range(d):
        level[j] = 0
    for step in range(stop):
        level[places[order[step]]] += 1


@njit(nogil=True, cache=True)
def distances(queries, planes, rows, terms, out):
    """Fill out (q, n) float32 with the estimated distances of rows from queries of 4-bit levels.

    queries (q, 4, W) and planes (P, W, n) are words of uint64. A plane of the queries holds bit 0, 1, … of all levels;
    the first plane of the rows holds their most significant bits. rows (4, n) and terms (q, 4) are those of
    hashing.quantizers.estimator.
    """
    use_wide_vectors()
    n = planes.shape[2]
    dots, sums = np.empty(TILE, np.uint64), np.empty(TILE, np.uint64)
    for start in range(0, n, TILE):
        size = min(TILE, n - start)
        sums[:] = 0
        for plane in range(len(planes)):
            shift(sums, plane)
            for w in range(planes.shape[1]):
                add_ones(planes[plane, w, start : start + size], sums)
        for i in range(len(queries)):
            dots[:] = 0
            for plane in range(len(planes)):
                shift(dots, plane)
                for w in range(planes.shape[1]):
                    add_common_ones(queries[i], w, planes[plane, w, start : start + size], dots)
            estimate(dots, sums, rows, terms[i], start, size, out[i])


@njit(nogil=True)
def shift(totals, plane):
    """Double totals, except before the first plane."""
    use_wide_vectors()
    for j in range(len(totals)):
        totals[j] <<= np.uint64(plane > 0)


@njit(nogil=True)
def add_ones(words, sums):
    use_wide_vectors()
    for j in range(len(words)):
        sums[j] += popcount(words[j])


@njit(nogil=True)
def add_common_ones(query, w, words, dots):
    """Add the ones that each word has in common with a plane of the query, times the value of the plane."""
    use_wide_vectors()
    a, b, c, d = query[0, w], query[1, w], query[2, w], query[3, w]
    for j in range(len(words)):
        word = words[j]
        low = popcount(word & a) + (popcount(word & b) << np.uint64(1))
        dots[j] += low + (popcount(word & c) << np.uint64(2)) + (popcount(word & d) << np.uint64(3))


@njit(nogil=True)
def estimate(dots, sums, rows, terms, start, size, out):
    use_wide_vectors()
    total, low, step, constant = terms[0], terms[1], terms[2], terms[3]
    for j in range(size):
        at = start + j
        product = low * np.float64(sums[j]) + step * np.float64(dots[j])
        out[at] = np.float32(rows[0, at] + rows[1, at] * total + rows[2, at] * product + rows[3, at] * constant)
