"""The inner loops of hashing.hamming, compiled by Numba on first use and kept in its cache.

Codes come as bytes: queries (q, W * size), and of a block of rows the planes (W, n * size), plane w holding word w of
every row, so that each loop runs over contiguous memory. A word has size 2, 4 or 8 bytes; longer codes have W words of
8. Distances are uint16, CHUNK at a time. Being bytes at any width, the arguments give each kernel one signature:
processes that compile different signatures of one function at the same time can mix them up in Numba's cache.
"""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

CHUNK = 2048  # rows: up to 128 bits they and their distances fit a level 1 cache of 48 KiB
STEP = 32  # rows measured at once
GROUP = 64  # distances compared at once, one bit each
PAIRED = 256  # cells at most whose pairs, numbered in 16 bits, have a table of their own


def of_word(emit):
    @intrinsic
    def operation(typing, word):
        return word(word), lambda context, builder, signature, args: emit(builder, args[0])

    return operation


popcount = of_word(lambda builder, word: builder.ctpop(word))
trailing_zeros = of_word(lambda builder, word: builder.cttz(word, ir.Constant(ir.IntType(1), 0)))


@intrinsic
def wide(typing):
    """Let the function use vectors of 512 bits where the processor has them; left alone LLVM stops at 256."""

    def codegen(context, builder, signature, args):
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # llvmlite refuses names it does not know
        return context.get_dummy_value()

    return types.none(), codegen


def measure_step(bits):
    """The measure of STEP rows, whose codes are made of words of so many bits, into out (n,) uint16 from place j on.

    Left to itself LLVM narrows every sum to 16 bits on its way to memory, which takes longer than to count the bits.
    Here `parts` vectors of 512 bits are interleaved into one, and a shuffle puts its rows back in order.
    """
    word, lanes, parts = ir.IntType(bits), 512 // bits, bits // 16
    vector, packed_type = ir.VectorType(word, lanes), ir.VectorType(ir.IntType(16), STEP)
    order = [parts * (row % lanes) + row // lanes for row in range(STEP)]

    @intrinsic
    def step(typing, queries, i, planes, start, out, j):
        def codegen(context, builder, signature, args):
            queries, planes, out = (context.make_array(signature.args[a])(context, builder, args[a]) for a in (0, 2, 4))
            _, width = cgutils.unpack_tuple(builder, queries.shape, 2)
            _, plane = cgutils.unpack_tuple(builder, planes.shape, 2)
            size = ir.Constant(ir.IntType(64), bits // 8)

            def place(data, row, stride, column, kind):
                offset = builder.add(builder.mul(row, stride), column)
                return builder.bitcast(builder.gep(data, [offset]), kind.as_pointer())

            count = ir.FunctionType(vector, [vector])
            count = cgutils.get_or_insert_function(builder.module, count, f"llvm.ctpop.v{lanes}i{bits}")
            sums = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(parts)]
            with cgutils.for_range(builder, builder.udiv(width, size)) as loop:
                column = builder.mul(loop.index, size)
                query = builder.load(place(queries.data, args[1], width, column, word), align=1, typ=word)
                query = splat(builder, query, vector)
                rows = place(planes.data, loop.index, plane, builder.mul(args[3], size), vector)
                for part, total in enumerate(sums):
                    row = builder.gep(rows, [ir.Constant(ir.IntType(64), part)], source_etype=vector)
                    ones = builder.call(count, [builder.xor(query, builder.load(row, align=1, typ=vector))])
                    builder.store(builder.add(builder.load(total, typ=vector), ones), total)
            packed = ir.Constant(vector, None)
            for part, total in enumerate(sums):
                shift = ir.Constant(vector, [16 * part] * lanes)
                packed = builder.or_(packed, builder.shl(builder.load(total, typ=vector), shift))
            packed = builder.bitcast(packed, packed_type)
            packed = builder.shuffle_vector(packed, packed, ir.Constant(ir.VectorType(ir.IntType(32), STEP), order))
            target = builder.bitcast(builder.gep(out.data, [args[5]]), packed_type.as_pointer())
            builder.store(packed, target, align=2)
            return context.get_dummy_value()

        return types.none(queries, types.intp, planes, types.intp, out, types.intp), codegen

    return step


step_16, step_32, step_64 = measure_step(16), measure_step(32), measure_step(64)


def splat(builder, value, vector):
    """A vector that repeats one value."""
    lone = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(lone, lone, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


@intrinsic
def below(typing, distances, start, limit):
    """Which of the GROUP distances from start on are under the limit, as the bits of a uint64; of (n,) uint16."""

    def codegen(context, builder, signature, args):
        group = ir.VectorType(ir.IntType(16), GROUP)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), group.as_pointer())
        near = builder.icmp_unsigned("<", builder.load(pointer, align=2, typ=group), splat(builder, args[2], group))
        return builder.bitcast(near, ir.IntType(GROUP))

    return types.uint64(distances, types.intp, types.uint16), codegen


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
    else:
        for j in range(0, whole, STEP):
            step_64(queries, i, planes, start + j, out, j)
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
    tables = np.zeros((4, n_cells), np.int64)
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
            out[c // n_bins, i, c % n_bins] += tables[0, c] + tables[1, c] + tables[2, c] + tables[3, c]
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
        rest[cell[2 * half]] += 1


@njit(nogil=True)
def unpair(pairs, tables):
    """Move the counts of pairs (second, first) to those of cells, in two of the tables."""
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
    quarter = cell.shape[0] // 4
    a, b, c, d = cell[:quarter], cell[quarter : 2 * quarter], cell[2 * quarter : 3 * quarter], cell[3 * quarter :]
    for j in range(quarter):
        tables[0, a[j]] += 1
        tables[1, b[j]] += 1
        tables[2, c[j]] += 1
        tables[3, d[j]] += 1
    for j in range(quarter, d.shape[0]):
        tables[3, d[j]] += 1


@njit(nogil=True)
def measure_padded(queries, i, planes, size, start, out):
    """As measure, of CHUNK rows; those beyond the last lie at distance 65535."""
    wide()
    n = min(CHUNK, planes.shape[1] // size - start)
    measure(queries, i, planes, size, start, n, out)
    for j in range(n, CHUNK):
        out[j] = 65535


@njit(nogil=True, cache=True)
def count_within(queries, planes, size, radius, counts):
    """Adds to counts (q,) the rows within a radius."""
    wide()
    distances = np.empty(CHUNK, np.uint16)
    for first in range(0, planes.shape[1] // size, CHUNK):
        for i in range(len(queries)):
            measure_padded(queries, i, planes, size, first, distances)
            near = np.uint64(0)
            for start in range(0, CHUNK, GROUP):
                near += popcount(below(distances, start, radius + 1))
            counts[i] += near


@njit(nogil=True, cache=True)
def within(queries, planes, size, position, radius, ends, positions, distances):
    """Writes the rows within a radius of query i from ends[i] on, and moves ends[i]; position is that of row 0."""
    wide()
    found = np.empty(CHUNK, np.uint16)
    for first in range(0, planes.shape[1] // size, CHUNK):
        for i in range(len(queries)):
            measure_padded(queries, i, planes, size, first, found)
            for start in range(0, CHUNK, GROUP):
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
    found, room = np.empty(CHUNK, np.uint16), distances.shape[1]
    for first in range(0, planes.shape[1] // size, CHUNK):
        for i in range(len(queries)):
            measure_padded(queries, i, planes, size, first, found)
            for start in range(0, CHUNK, GROUP):
                near = below(found, start, limits[i])
                while near:
                    j = start + np.int64(trailing_zeros(near))
                    near &= near - np.uint64(1)
                    if found[j] < limits[i]:
                        distances[i, sizes[i]], positions[i, sizes[i]] = found[j], position + first + j
                        sizes[i] += 1
                        if sizes[i] == room:
                            sort(distances[i], positions[i])
                            sizes[i] = k
                            limits[i] = distances[i, k - 1]


@njit(nogil=True)
def sort(distances, positions):
    """Sort by distance in place, rows of equal distance staying in order."""
    ends = np.zeros(distances.max() + 2, np.int64)
    for distance in distances:
        ends[distance + 1] += 1
    ends = ends.cumsum()
    old_distances, old_positions = distances.copy(), positions.copy()
    for j in range(len(distances)):
        at = ends[old_distances[j]]
        distances[at], positions[at] = old_distances[j], old_positions[j]
        ends[old_distances[j]] += 1
