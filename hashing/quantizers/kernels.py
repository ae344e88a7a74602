"""The inner loops of the quantizers, compiled by Numba on first use and cached on disk.

Sums are float64 in the order of the coordinates, without fused operations, so results are the same on every machine.
"""

import numpy as np
from numba import njit

from ..hamming.simd import popcount, use_wide_vectors

TILE = 1024  # rows whose distances are computed at a time
STEPS = 256  # of a grid of scales
NORMAL = np.zeros(128)  # by the largest magnitude, the best step of uniform levels of a standard normal variable
NORMAL[[1, 3, 7, 15, 31, 63, 127]] = 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308  # Max, 1960, continued


@njit(nogil=True)
def set_bits(u, j, planes, level):
    """Write the bits of a level to one row u (planes * d,) as -1 and +1, the most significant plane first."""
    d = len(u) // planes
    for plane in range(planes):
        u[plane * d + j] = np.float32(2 * (level >> (planes - 1 - plane) & 1) - 1)


@njit(nogil=True)
def set_norms(v, centre, correctives):
    """Write |v|^2 and <v, centre> of one row, rounded once, and return |v|^2."""
    norm = along = 0.0
    for j in range(len(v)):
        value = np.float64(v[j])
        norm += value * value
        along += value * np.float64(centre[j])
    correctives[1], correctives[2] = np.float32(norm), np.float32(along)
    return norm


@njit(nogil=True, cache=True)
def round_to_direction(v, planes, centre, u, correctives):
    """Fill u (n, planes * d) and correctives (n, 3) of v (n, d) as hashing.quantizers.rabitq.RaBitQHash."""
    n, d = v.shape
    most = (1 << (planes - 1)) - 1  # the largest magnitude
    level, size = np.zeros(d, np.int64), np.empty(d)
    products, squares = np.empty(STEPS + 1), np.empty(STEPS + 1)
    for i in range(n):
        norm = set_norms(v[i], centre, correctives[i])
        for j in range(d):
            size[j] = abs(np.float64(v[i, j]))
        magnitudes(size, norm, most, products, squares, level)
        product = 0.0
        for j in range(d):
            product += size[j] * (level[j] + 0.5)
            set_bits(u[i], j, planes, most + 1 + level[j] if v[i, j] >= 0 else most - level[j])
        correctives[i, 0] = np.float32(norm / product if product > 0 else 0.0)


@njit(nogil=True)
def magnitudes(size, norm, most, products, squares, level):
    """Fill level (d,) with integers 0 to `most` for which level + 1/2 has nearly the largest cosine with size (d,).

    The best levels are floor(t size) for some t. Each t of a grid is tried, whose middle is the best for a normal
    variable: at t = m / size_j, level j rises to m, which changes the two sums of the cosine. products and squares
    (STEPS + 1,) are memory.
    """
    d = len(size)
    level[:] = 0
    if most == 0 or not norm > 0:
        return
    products[:] = 0
    squares[:] = 0
    unit = 2 / (NORMAL[most] * np.sqrt(norm / d)) / STEPS
    for j in range(d):
        products[0] += 0.5 * size[j]
        squares[0] += 0.25
        per_level = 1 / (size[j] * unit) if size[j] > 0 else np.inf
        for m in range(1, most + 1):
            if m * per_level > STEPS:
                break
            step = int(np.ceil(m * per_level))
            products[step] += size[j]
            squares[step] += 2 * m
    best, found = 0.0, 0
    product = square = 0.0
    for step in range(STEPS + 1):
        product += products[step]
        square += squares[step]
        if product * product > best * square:
            best, found = product * product / square, step
    for j in range(d):
        level[j] = min(int(size[j] * (found * unit)), most)


@njit(nogil=True, cache=True)
def round_to_codebook(v, planes, centre, codebook, unit, u, correctives):
    """Fill u (n, planes * d) and correctives (n, 3) of v (n, d) as hashing.quantizers.turboquant.TurboQuantHash.

    codebook (2^planes,) holds increasing values, in multiples of 1 / unit.
    """
    n, d = v.shape
    for i in range(n):
        norm = set_norms(v[i], centre, correctives[i])
        scale = np.sqrt(norm / d) / unit
        product = 0.0
        for j in range(d):
            value, level = np.float64(v[i, j]), 0
            while level + 1 < len(codebook) and value >= scale * (codebook[level] + codebook[level + 1]) / 2:
                level += 1
            product += value * codebook[level]
            set_bits(u[i], j, planes, level)
        correctives[i, 0] = np.float32(norm / product if product > 0 else 0.0)


GRID = np.array([0.798, 1.493, 2.051, 2.514])  # half an interval in standard deviations, for 1 to 4 bits
ROUNDS, SHARE = 5, 0.1  # rounds of optimization, and the weight of the error that is not along the row


@njit(nogil=True, cache=True)
def round_in_interval(v, planes, mean, u, correctives):
    """Fill u (n, planes * d) and correctives (n, 4) of v (n, d) as hashing.quantizers.osq.OSQHash.

    The interval (low, high) starts around the mean of the coordinates. Each round minimises, for fixed levels,
    (1 - SHARE) <v, e>^2 / |v|^2 + SHARE |e|^2, for the error e; it is the last one if that loss rises for new levels.
    """
    n, d = v.shape
    top = (1 << planes) - 1
    for i in range(n):
        row = v[i]
        norm = set_norms(row, mean, correctives[i])
        low, high = first_interval(row, planes)
        loss = interval_loss(row, norm, low, high, top)
        for _ in range(ROUNDS):
            if not norm > 0 or not high > low:
                break
            aa = ab = bb = ax = bx = 0.0
            for j in range(d):
                value = np.float64(row[j])
                s = level_in(value, low, high, top) / top
                aa += (1 - s) * (1 - s)
                ab += (1 - s) * s
                bb += s * s
                ax += value * (1 - s)
                bx += value * s
            along = (1 - SHARE) / norm
            m0, m1, m2 = along * ax * ax + SHARE * aa, along * ax * bx + SHARE * ab, along * bx * bx + SHARE * bb
            determinant = m0 * m2 - m1 * m1
            if determinant == 0:
                break
            better_low, better_high = (m2 * ax - m1 * bx) / determinant, (m0 * bx - m1 * ax) / determinant
            if abs(better_low - low) < 1e-8 and abs(better_high - high) < 1e-8:
                break
            better = interval_loss(row, norm, better_low, better_high, top)
            if not better <= loss:
                break
            low, high, loss = better_low, better_high, better
        for j in range(d):
            set_bits(u[i], j, planes, level_in(np.float64(row[j]), low, high, top))
        correctives[i, 0], correctives[i, 3] = np.float32((high - low) / top), np.float32(low)


@njit(nogil=True)
def first_interval(row, planes):
    """Return mean ± GRID standard deviations of the coordinates of a row, within their range."""
    total = 0.0
    least = most = np.float64(row[0])
    for j in range(len(row)):
        value = np.float64(row[j])
        total += value
        least, most = min(least, value), max(most, value)
    mean, squares = total / len(row), 0.0
    for j in range(len(row)):
        squares += (np.float64(row[j]) - mean) ** 2
    half = GRID[planes - 1] * np.sqrt(squares / len(row))
    return max(least, mean - half), min(most, mean + half)


@njit(nogil=True)
def level_in(value, low, high, top):
    """Return the level nearest to a value, of 0 to `top` in an interval."""
    if not high > low:
        return 0
    return int(np.floor((min(max(value, low), high) - low) * (top / (high - low)) + 0.5))


@njit(nogil=True)
def interval_loss(row, norm, low, high, top):
    """Return the loss of an interval, with the nearest levels."""
    step = (high - low) / top
    along = squares = 0.0
    for j in range(len(row)):
        value = np.float64(row[j])
        error = value - (low + step * level_in(value, low, high, top))
        along += value * error
        squares += error * error
    return (1 - SHARE) * along * along / norm + SHARE * squares if norm > 0 else 0.0


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
