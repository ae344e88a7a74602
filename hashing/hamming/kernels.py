"""The inner loops of hashing.hamming.scan, compiled by Numba on first use and cached on disk.

Codes are passed as bytes, in the layout of hashing.hamming.layout: queries (q, W * size), and the planes (W, n * size)
of a block of rows, where plane w holds word w of every row, so that each loop runs over contiguous memory. A word has
2, 4 or 8 bytes (`size`); longer codes have W words of 8. Distances are uint16, at most CHUNK at a time.

Codes of every width are bytes, so each kernel has a single signature. With several, concurrent processes that compile
different signatures of one function can corrupt Numba's cache.
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
    use_wide_vectors,
)

CHUNK = 2048  # rows whose distances are computed at a time, at most
TILE_BYTES = 1 << 15  # bytes of codes that all queries visit before the next; with the distances, they fit a 48 KiB L1
PAIRED_CELLS = 256  # up to this number of cells, a pair of cells fits in 16 bits, and pairs are counted in a table


@njit(nogil=True)
def measure(queries, i, planes, size, start, n, out):
    """Write to out (n,) the distances of n rows from query i, beginning at row `start`."""
    use_wide_vectors()
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
    """Add to out (n_grades, q, n_bins) the number of rows of each grade at each distance.

    query_labels (q, w) and labels (w, n) are uint16. The cell of a row is grade * n_bins + distance.
    """
    # Derivation: docs/evaluation.md, "Counting by cells"
    use_wide_vectors()
    n_grades, _, n_bins = out.shape
    n_cells = n_grades * n_bins
    cells, scratch = np.empty(CHUNK, np.uint16), np.empty(CHUNK, np.uint16)
    pairs = np.zeros((n_cells, n_cells) if n_cells <= PAIRED_CELLS else (0, 0), np.uint32)
    tables = np.zeros((4, n_cells), np.uint32)
    for i in range(len(queries)):
        for start in range(0, planes.shape[1] // size, CHUNK):
            cell = cells[: min(CHUNK, planes.shape[1] // size - start)]
            measure(queries, i, planes, size, start, len(cell), cells)
            if n_grades > 1:
                add_grades(query_labels[i], labels, start, n_grades, n_bins, scratch, cell)
            if n_cells <= PAIRED_CELLS:
                count_pairs(cell, scratch, pairs, tables[0])
            else:
                count_fourfold(cell, tables)
        if n_cells <= PAIRED_CELLS:
            unpair(pairs, tables)
        for c in range(n_cells):
            out[c // n_bins, i, c % n_bins] += np.int64(tables[0, c] + tables[1, c] + tables[2, c] + tables[3, c])
        tables[:] = 0


@njit(nogil=True)
def add_grades(query, labels, start, n_grades, n_bins, scratch, cell):
    """Raise each cell by n_bins for each label that the row shares with the query, at most n_grades - 1 times."""
    use_wide_vectors()
    shared = scratch[: cell.shape[0]]
    shared[:] = 0
    for w in range(len(labels)):
        wanted, words = query[w], labels[w][start : start + cell.shape[0]]
        if n_grades == 2:
            for j in range(cell.shape[0]):
                shared[j] |= wanted & words[j]
        else:
            for j in range(cell.shape[0]):
                shared[j] += popcount(np.uint16(wanted & words[j]))
    for j in range(cell.shape[0]):
        cell[j] += min(shared[j], np.uint16(n_grades - 1)) * np.uint16(n_bins)


@njit(nogil=True)
def count_pairs(cell, scratch, pairs, rest):
    """Count the cells of two rows in one step: half the loads and stores, and fewer repeated addresses.

    An odd last row is counted in rest (n_cells,).
    """
    use_wide_vectors()
    n_cells = np.uint16(pairs.shape[0])
    half = cell.shape[0] // 2
    low, high, both = cell[:half], cell[half : 2 * half], scratch[:half]
    for j in range(half):
        both[j] = low[j] + high[j] * n_cells
    table = pairs.reshape(-1)
    for j in range(half):
        table[both[j]] += np.uint32(1)
    if 2 * half < cell.shape[0]:
        rest[cell[2 * half]] += np.uint32(1)


@njit(nogil=True)
def unpair(pairs, tables):
    """Add the counts of pairs (second, first) to those of single cells, in two of the tables, and clear them."""
    use_wide_vectors()
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
    """Count in four tables in turn, so that a step rarely waits for the store of the previous one."""
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
def distance_buffer(queries):
    """Return a buffer for the distances of one tile of rows, aligned to a cache line."""
    n = min(CHUNK, max(TILE_BYTES // queries.shape[1] // GROUP, 1) * GROUP)
    memory = np.empty(n + 32, np.uint16)
    start = -memory.ctypes.data % 64 // 2
    return memory[start : start + n]


@njit(nogil=True)
def measure_padded(queries, i, planes, size, start, out):
    """Write the distances of len(out) rows, as `measure` does; places beyond the last row get 65535."""
    use_wide_vectors()
    n = min(len(out), planes.shape[1] // size - start)
    measure(queries, i, planes, size, start, n, out)
    for j in range(n, len(out)):
        out[j] = 65535


@njit(nogil=True, cache=True)
def count_within(queries, planes, size, radius, counts):
    """Add to counts (q,) the number of rows within a radius."""
    use_wide_vectors()
    distances = distance_buffer(queries)
    for first in range(0, planes.shape[1] // size, len(distances)):
        for i in range(len(queries)):
            measure_padded(queries, i, planes, size, first, distances)
            near = np.uint64(0)
            for start in range(0, len(distances), GROUP):
                near += popcount(below(distances, start, radius + 1))
            counts[i] += near


@njit(nogil=True, cache=True)
def within(queries, planes, size, position, radius, ends, positions, distances):
    """Write the rows within a radius of query i from ends[i] on, and advance ends[i].

    `position` is the position of row 0 of the planes in the database.
    """
    use_wide_vectors()
    tile = distance_buffer(queries)
    for first in range(0, planes.shape[1] // size, len(tile)):
        for i in range(len(queries)):
            measure_padded(queries, i, planes, size, first, tile)
            for start in range(0, len(tile), GROUP):
                near = below(tile, start, radius + 1)
                while near:
                    j = start + np.int64(trailing_zeros(near))
                    near &= near - np.uint64(1)
                    positions[ends[i]], distances[ends[i]] = position + first + j, tile[j]
                    ends[i] += 1


@njit(nogil=True, cache=True)
def topk(queries, planes, size, position, k, sizes, limits, distances, positions):
    """Add the rows that may be among the k nearest to distances and positions (q, capacity).

    Query i has sizes[i] candidates so far. k of them are nearer than limits[i]. When the capacity (> k) is reached,
    only the k nearest candidates are kept. `position` is the position of row 0 in the database.
    """
    use_wide_vectors()
    tile, counts, capacity = distance_buffer(queries), np.empty(65536, np.int32), distances.shape[1]
    for first in range(0, planes.shape[1] // size, len(tile)):
        for i in range(len(queries)):
            measure_padded(queries, i, planes, size, first, tile)
            for start in range(0, len(tile), GROUP):
                near = below(tile, start, limits[i])
                while near:
                    j = start + np.int64(trailing_zeros(near))
                    near &= near - np.uint64(1)
                    if tile[j] < limits[i]:
                        distances[i, sizes[i]], positions[i, sizes[i]] = tile[j], position + first + j
                        sizes[i] += 1
                        if sizes[i] == capacity:
                            sizes[i], limits[i] = k, keep_nearest(distances[i], positions[i], k, counts)


@njit(nogil=True)
def keep_nearest(distances, positions, k, counts):
    """Move the k nearest to the front, in their current order, drop the others, and return the k-th distance."""
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
