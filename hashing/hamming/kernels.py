"""The inner loops of hashing.hamming, compiled by Numba on first use and kept in its cache.

Codes come as bytes: queries (q, W * size), and of a block of rows the planes (W, n * size), plane w holding word w of
every row, so that each loop runs over contiguous memory. A word has size 2, 4 or 8 bytes; longer codes have W words of
8. Distances are uint16, CHUNK at a time. Being bytes at any width, the arguments give each kernel one signature:
processes that compile different signatures of one function at the same time can mix them up in Numba's cache.
"""

import numpy as np
from numba import njit

from .simd import (
    GROUP,
    STEP,
    below,
    popcount,
    step_16,
    step_32,
    step_64,
    step_128,
    step_256,
    step_long,
    trailing_zeros,
    wide,
)

CHUNK = 2048  # rows at most that are measured in a row
NEAR = 1 << 15  # bytes of codes that all queries visit before the next: with their distances a level 1 cache of 48 KiB
PAIRED = 256  # cells at most whose pairs, numbered in 16 bits, have a table of their own


@njit(nogil=True)
def measure(queries, i, planes, size, start, n, out):
    """Distances from query i to n rows from start on."""
    wide()
    whole = n // STEP * STEP
    if size == 2:
        for j in range(0, whole, STEP):
            step_16(queries, i, planes, start + j, out, j)
    elif size == 4:
        for j in range(0, whole, STEP):
            step_32(queries, i, planes, start + j, out, j)
    elif len(planes) == 1:
        for j in range(0, whole, STEP):
            step_64(queries, i, planes, start + j, out, j)
    elif len(planes) == 2:
        for j in range(0, whole, STEP):
            step_128(queries, i, planes, start + j, out, j)
    elif len(planes) == 4:
        for j in range(0, whole, STEP):
            step_256(queries, i, planes, start + j, out, j)
    else:
        for j in range(0, whole, STEP):
            step_long(queries, i, planes, start + j, out, j)
    for j in range(whole, n):
        out[j] = 0
        for byte in range(queries.shape[1]):
            out[j] += popcount(queries[i, byte] ^ planes[byte // size, (start + j) * size + byte % size])


@njit(nogil=True, cache=True)
def histogram(queries, planes, size, query_labels, labels, out):
    """Adds to out (n_grades, q, n_bins) the rows of each grade and distance; labels are planes (w, n) uint16."""
    wide()
    n_grades, _, n_bins = out.shape
    n_cells = n_grades * n_bins
    cells, room = np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint16)
    pairs = np.zeros((n_cells, n_cells) if n_cells <= PAIRED else (0, 0), np.uint32)
    tables = np.zeros((4, n_cells), np.uint32)
    for i in range(len(queries)):
        for start in range(0, planes.shape[1] // size, CHUNK):
            cell = cells[: min(CHUNK, planes.shape[1] // size - start)]
            measure(queries, i, planes, size, start, len(cell), cells)
            if n_grades > 1:
                add_grades(query_labels[i], labels, start, n_grades, n_bins, room, cell)
            if n_cells <= PAIRED:
                count_pairs(cell, room, pairs, tables[0])
            else:
                count_fourfold(cell, tables)
        if n_cells <= PAIRED:
            unpair(pairs, tables)
        for c in range(n_cells):
            out[c // n_bins, i, c % n_bins] += np.int64(tables[0, c] + tables[1, c] + tables[2, c] + tables[3, c])
        tables[:] = 0


@njit(nogil=True)
def add_grades(query, labels, start, n_grades, n_bins, room, cell):
    """Move each cell up by n_bins for every label that the row shares with the query, n_grades - 1 times at most."""
    wide()
    shared = room[: cell.shape[0]]
    shared[:] = 0
    for w in range(len(labels)):
        asked, words = query[w], labels[w][start : start + cell.shape[0]]
        if n_grades == 2:
            for j in range(cell.shape[0]):
                shared[j] |= asked & words[j]
        else:
            for j in range(cell.shape[0]):
                shared[j] += popcount(np.uint16(asked & words[j]))
    for j in range(cell.shape[0]):
        cell[j] += min(shared[j], np.uint16(n_grades - 1)) * np.uint16(n_bins)


@njit(nogil=True)
def count_pairs(cell, room, pairs, rest):
    """Count the cells of two rows in one step: half the loads and stores, and seldom twice the same address in turn."""
    wide()
    n_cells = np.uint16(pairs.shape[0])
    half = cell.shape[0] // 2
    low, high, both = cell[:half], cell[half : 2 * half], room[:half]
    for j in range(half):
        both[j] = low[j] + high[j] * n_cells
    table = pairs.reshape(-1)
    for j in range(half):
        table[both[j]] += np.uint32(1)
    if 2 * half < cell.shape[0]:
        rest[cell[2 * half]] += np.uint32(1)


@njit(nogil=True)
def unpair(pairs, tables):
    """Move the counts of pairs (second, first) to those of cells, in two of the tables."""
    wide()
    n_cells = tables.shape[1]
    for second in range(n_cells):
        row, total = pairs[second], np.uint32(0)
        for first in range(n_cells):
            total += row[first]
            tables[1, first] += row[first]
            row[first] = np.uint32(0)
        tables[2, second] += total


@njit(nogil=True)
def count_fourfold(cell, tables):
    """Count in four tables in turn, so that a step seldom waits for the store of the one before."""
    quarter = cell.shape[0] // 4
    a, b, c, d = cell[:quarter], cell[quarter : 2 * quarter], cell[2 * quarter : 3 * quarter], cell[3 * quarter :]
    for j in range(quarter):
        tables[0, a[j]] += np.uint32(1)
        tables[1, b[j]] += np.uint32(1)
        tables[2, c[j]] += np.uint32(1)
        tables[3, d[j]] += np.uint32(1)
    for j in range(quarter, d.shape[0]):
        tables[3, d[j]] += np.uint32(1)


@njit(nogil=True)
def room_for(queries):
    """For the distances of the rows that all queries visit before the next, from a cache line on."""
    n = min(CHUNK, max(NEAR // queries.shape[1] // GROUP, 1) * GROUP)
    memory = np.empty(n + 32, np.uint16)
    start = -memory.ctypes.data % 64 // 2
    return memory[start : start + n]


@njit(nogil=True)
def measure_padded(queries, i, planes, size, start, out):
    """As measure, of as many rows as out has; those beyond the last lie at distance 65535."""
    wide()
    n = min(len(out), planes.shape[1] // size - start)
    measure(queries, i, planes, size, start, n, out)
    for j in range(n, len(out)):
        out[j] = 65535


@njit(nogil=True, cache=True)
def count_within(queries, planes, size, radius, counts):
    """Adds to counts (q,) the rows within a radius."""
    wide()
    distances = room_for(queries)
    for first in range(0, planes.shape[1] // size, len(distances)):
        for i in range(len(queries)):
            measure_padded(queries, i, planes, size, first, distances)
            near = np.uint64(0)
            for start in range(0, len(distances), GROUP):
                near += popcount(below(distances, start, radius + 1))
            counts[i] += near


@njit(nogil=True, cache=True)
def within(queries, planes, size, position, radius, ends, positions, distances):
    """Writes the rows within a radius of query i from ends[i] on, and moves ends[i]; position is that of row 0."""
    wide()
    found = room_for(queries)
    for first in range(0, planes.shape[1] // size, len(found)):
        for i in range(len(queries)):
            measure_padded(queries, i, planes, size, first, found)
            for start in range(0, len(found), GROUP):
                near = below(found, start, radius + 1)
                while near:
                    j = start + np.int64(trailing_zeros(near))
                    near &= near - np.uint64(1)
                    positions[ends[i]], distances[ends[i]] = position + first + j, found[j]
                    ends[i] += 1


@njit(nogil=True, cache=True)
def topk(queries, planes, size, position, k, sizes, limits, distances, positions):
    """Offers the rows, position being that of row 0, to the first sizes[i] of distances and positions (q, room).

    A row at limits[i] or beyond comes after k others. Room is more than k; when it is used up the k nearest are kept.
    """
    wide()
    found, counts, room = room_for(queries), np.zeros(65536, np.int32), distances.shape[1]
    for first in range(0, planes.shape[1] // size, len(found)):
        for i in range(len(queries)):
            measure_padded(queries, i, planes, size, first, found)
            for start in range(0, len(found), GROUP):
                near = below(found, start, limits[i])
                while near:
                    j = start + np.int64(trailing_zeros(near))
                    near &= near - np.uint64(1)
                    if found[j] < limits[i]:
                        distances[i, sizes[i]], positions[i, sizes[i]] = found[j], position + first + j
                        sizes[i] += 1
                        if sizes[i] == room:
                            sizes[i], limits[i] = k, keep_nearest(distances[i], positions[i], k, counts)


@njit(nogil=True)
def keep_nearest(distances, positions, k, counts):
    """The k nearest come to the front, in the order in which they are, the others go; gives the k-th distance."""
    counts[: distances.max() + 1] = 0
    for distance in distances:
        counts[distance] += 1
    last, ties = np.uint16(0), k
    while counts[last] < ties:
        ties -= counts[last]
        last += np.uint16(1)
    kept = 0
    for j in range(len(distances)):
        distance, position = distances[j], positions[j]
        distances[kept], positions[kept] = distance, position
        tied = distance == last
        kept += (distance < last) | (tied & (ties > 0))
        ties -= tied
    distances[k:] = 65535
    return last
