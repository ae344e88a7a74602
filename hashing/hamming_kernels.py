"""The inner loops of hashing.hamming, compiled by Numba on first use and kept in its cache.

Codes come as bytes: queries (q, W * size), and of a block of rows the planes (W, n * size), plane w holding word w of
every row, so that each loop runs over contiguous memory and the compiler turns it into vector instructions. A word has
size 1, 2, 4 or 8; longer codes have W = 2, 4, 8, 12, ... words of 8 bytes. Distances are uint16, CHUNK at a time.

The view as words is taken here, within one signature a kernel: processes that compile different signatures of one
function at the same time can mix them up in Numba's cache.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

CHUNK = 4096  # rows: at 64 bits they and their distances fit a level 1 cache of 48 KiB
GROUP = 64  # distances compared at once, one bit each
PAIRED = 256  # cells, squared, of the table that counts two rows in one step


@intrinsic
def popcount(typing, word):
    def codegen(context, builder, signature, args):
        return builder.ctpop(args[0])

    return word(word), codegen


@intrinsic
def trailing_zeros(typing, word):
    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return word(word), codegen


@intrinsic
def wide(typing):
    """Let the function use vectors of 512 bits where the processor has them; left alone LLVM stops at 256."""

    def codegen(context, builder, signature, args):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite refuses names it does not know
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def below(typing, distances, start, limit):
    """Which of the GROUP distances from start on are under the limit, as the bits of a uint64; of (n,) uint16."""

    def codegen(context, builder, signature, args):
        group = ir.VectorType(ir.IntType(16), GROUP)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), group.as_pointer())
        lone = builder.insert_element(ir.Constant(group, ir.Undefined), args[2], ir.Constant(ir.IntType(32), 0))
        limits = builder.shuffle_vector(lone, lone, ir.Constant(ir.VectorType(ir.IntType(32), GROUP), None))
        near = builder.icmp_unsigned("<", builder.load(pointer, align=2, typ=group), limits)
        return builder.bitcast(near, ir.IntType(GROUP))

    return types.uint64(distances, types.intp, types.uint16), codegen


@njit(nogil=True)
def measure_one(query, rows, out):
    wide()
    for j in range(out.shape[0]):
        out[j] = popcount(query ^ rows[j])


@njit(nogil=True)
def measure_two(query, first, second, out):
    wide()
    for j in range(out.shape[0]):
        out[j] = popcount(query[0] ^ first[j]) + popcount(query[1] ^ second[j])


@njit(nogil=True)
def measure_four_more(query, first, second, third, fourth, out):
    wide()
    for j in range(out.shape[0]):
        left = popcount(query[0] ^ first[j]) + popcount(query[1] ^ second[j])
        right = popcount(query[2] ^ third[j]) + popcount(query[3] ^ fourth[j])
        out[j] += left + right


@njit(nogil=True)
def measure(query, planes, size, start, out):
    """Distances from a query to the rows start, start + 1, ..."""
    wide()
    rows = slice(start, start + out.shape[0])
    if size == 1:
        measure_one(query[0], planes[0][rows], out)
    elif size == 2:
        measure_one(query.view(np.uint16)[0], planes[0].view(np.uint16)[rows], out)
    elif size == 4:
        measure_one(query.view(np.uint32)[0], planes[0].view(np.uint32)[rows], out)
    else:
        query, words = query.view(np.uint64), planes.view(np.uint64)
        if len(words) == 1:
            measure_one(query[0], words[0][rows], out)
        elif len(words) == 2:
            measure_two(query, words[0][rows], words[1][rows], out)
        else:
            out[:] = 0
            for w in range(0, len(words), 4):
                a, b, c, d = words[w][rows], words[w + 1][rows], words[w + 2][rows], words[w + 3][rows]
                measure_four_more(query[w : w + 4], a, b, c, d, out)


@njit(nogil=True, cache=True)
def histogram(queries, planes, size, query_labels, labels, out):
    """Adds to out (n_grades, q, n_bins) the rows of each grade and distance; labels are planes (w, n) uint64."""
    wide()
    n_grades, _, n_bins = out.shape
    n_cells = n_grades * n_bins
    cells = np.empty(CHUNK, np.uint16)
    pairs = np.zeros((PAIRED, PAIRED), np.uint32)
    tables = np.zeros((4, n_cells), np.uint32)
    n = planes.shape[1] // size
    for i in range(len(queries)):
        for start in range(0, n, CHUNK):
            cell = cells[: min(CHUNK, n - start)]
            measure(queries[i], planes, size, start, cell)
            if n_grades > 1:
                add_grades(query_labels[i], labels, start, n_grades, n_bins, cell)
            if n_cells <= PAIRED:
                count_pairs(cell, pairs, tables[0])
            else:
                count_fourfold(cell, tables)
        if n_cells <= PAIRED:
            unpair(pairs, tables)
        for cell in range(n_cells):
            out[cell // n_bins, i, cell % n_bins] += tables[:, cell].sum()
        tables[:] = 0


@njit(nogil=True)
def add_grades(query, labels, start, n_grades, n_bins, cell):
    """Move each cell up by n_bins for every label that the row shares with the query, n_grades - 1 times at most."""
    wide()
    shared = np.zeros(cell.shape[0], np.uint16)
    for w in range(len(labels)):
        words = labels[w][start : start + cell.shape[0]]
        if n_grades == 2:
            for j in range(cell.shape[0]):
                shared[j] |= np.uint16((query[w] & words[j]) != 0)
        else:
            for j in range(cell.shape[0]):
                shared[j] += popcount(query[w] & words[j])
    for j in range(cell.shape[0]):
        cell[j] += min(shared[j], np.uint16(n_grades - 1)) * np.uint16(n_bins)


@njit(nogil=True)
def count_pairs(cell, pairs, rest):
    """Count the cells of two rows in one step: half the loads and stores, and seldom twice the same address in turn."""
    wide()
    half = cell.shape[0] // 2
    low, high = cell[:half], cell[half : 2 * half]
    for j in range(half):
        low[j] |= high[j] << 8
    table = pairs.reshape(-1)
    for j in range(half):
        table[low[j]] += np.uint32(1)
    for j in range(2 * half, cell.shape[0]):
        rest[cell[j]] += np.uint32(1)


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
            row[first] = 0
        tables[2, second] += total


@njit(nogil=True)
def count_fourfold(cell, tables):
    """Count in four tables in turn, so that a step seldom waits for the store of the one before."""
    wide()
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
def measure_padded(query, planes, size, start, buffer):
    """As measure, of CHUNK rows; those beyond the last lie at distance 65535."""
    wide()
    n = min(CHUNK, planes.shape[1] // size - start)
    measure(query, planes, size, start, buffer[:n])
    buffer[n:] = 65535


@njit(nogil=True, cache=True)
def count_within(queries, planes, size, radius, counts):
    """Adds to counts (q,) the rows within a radius."""
    wide()
    distances = np.empty(CHUNK, np.uint16)
    for first in range(0, planes.shape[1] // size, CHUNK):
        for i in range(len(queries)):
            measure_padded(queries[i], planes, size, first, distances)
            for start in range(0, CHUNK, GROUP):
                counts[i] += popcount(below(distances, start, radius + 1))


@njit(nogil=True, cache=True)
def within(queries, planes, size, position, radius, ends, positions, distances):
    """Writes the rows within a radius of query i from ends[i] on, and moves ends[i]; position is that of row 0."""
    wide()
    found = np.empty(CHUNK, np.uint16)
    for first in range(0, planes.shape[1] // size, CHUNK):
        for i in range(len(queries)):
            measure_padded(queries[i], planes, size, first, found)
            for start in range(0, CHUNK, GROUP):
                near = below(found, start, radius + 1)
                while near:
                    j = start + np.int64(trailing_zeros(near))
                    near &= near - np.uint64(1)
                    positions[ends[i]] = position + first + j
                    distances[ends[i]] = found[j]
                    ends[i] += 1


@njit(nogil=True, cache=True)
def topk(queries, planes, size, position, k, sizes, limits, distances, positions):
    """Offers the rows, position being that of row 0, to the first sizes[i] of distances and positions (q, room).

    A row at limits[i] or beyond comes after k others. Room is more than k; when it is used up the k nearest are kept.
    """
    wide()
    found = np.empty(CHUNK, np.uint16)
    room = distances.shape[1]
    for first in range(0, planes.shape[1] // size, CHUNK):
        for i in range(len(queries)):
            measure_padded(queries[i], planes, size, first, found)
            for start in range(0, CHUNK, GROUP):
                near = below(found, start, limits[i])
                while near:
                    j = start + np.int64(trailing_zeros(near))
                    near &= near - np.uint64(1)
                    if found[j] < limits[i]:
                        distances[i, sizes[i]] = found[j]
                        positions[i, sizes[i]] = position + first + j
                        sizes[i] += 1
                        if sizes[i] == room:
                            sort(distances[i], positions[i])
                            sizes[i] = k
                            limits[i] = distances[i, k - 1]


@njit(nogil=True)
def sort(distances, positions):
    """Sort by distance in place, rows of equal distance staying in order."""
    wide()
    ends = np.zeros(distances.max() + 2, np.int64)
    for distance in distances:
        ends[distance + 1] += 1
    ends = ends.cumsum()
    old_distances, old_positions = distances.copy(), positions.copy()
    for j in range(len(distances)):
        at = ends[old_distances[j]]
        distances[at], positions[at] = old_distances[j], old_positions[j]
        ends[old_distances[j]] += 1
