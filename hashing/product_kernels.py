"""Products of vectors with a weight. The order of summation is the same for every row and on every machine.

A sum of d products is cut into panels (see `panel`). Within a panel, the products are added one after another by fused
multiply-adds; then the sums of the panels are added. On CPUs with AVX-512, OpenBLAS does the same for matrices that are
not small, with bitwise equal results, but it is slower for the few columns of a hash function.

A tile prefetches the rows of the next one, which the processor does not foresee, so rows need not be in the cache.

Compiled by Numba on first use and cached on disk.
"""

from itertools import pairwise

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .mapreduce import Array

LANES = 16  # float32 values in a vector of the generated code, which LLVM splits where registers are shorter
ROWS = 6  # of a tile
WIDE = 4 * LANES if get_host_cpu_features().get("avx512f") else LANES  # columns of a tile: its sums fit the registers
PANEL = 448  # products, as in OpenBLAS
CACHE = 2**18  # bytes of vectors that stay in the cache while the columns change


def tile(n_rows, n_columns):
    """Return a function that computes n_rows x n_columns values of one panel, with the sums in registers."""
    vector, integer = ir.VectorType(ir.FloatType(), LANES), ir.IntType(64)
    nothing = ir.Constant(vector, None)
    groups = range(0, n_columns, LANES)

    @intrinsic
    def compute(typing, x, at, dim, weight, weight_at, begin, end, threshold, column, u, u_at, width):
        def codegen(context, builder, signature, args):
            def pointer(array, *offsets):
                data = context.make_array(signature.args[array])(context, builder, args[array]).data
                for offset in offsets:
                    data = builder.gep(data, [offset if isinstance(offset, ir.Value) else integer(offset)])
                return data

            def load(place):
                return builder.load(builder.bitcast(place, vector.as_pointer()), align=4)

            _, at, dim, _, weight_at, begin, end, _, column, _, u_at, width = args
            fma = ir.FunctionType(vector, [vector] * 3)
            fma = cgutils.get_or_insert_function(builder.module, fma, f"llvm.fma.v{LANES}f32")
            x = [pointer(0, at, builder.mul(dim, integer(row))) for row in range(n_rows)]
            following_rows = pointer(0, at, builder.mul(dim, integer(n_rows)))
            byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            prefetch = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
            prefetch = cgutils.get_or_insert_function(builder.module, prefetch, "llvm.prefetch.p0")
            for_reading = number(0), number(3), number(1)  # of data, to stay in all caches
            weight = pointer(3, weight_at)
            before, loop, after = builder.block, *map(builder.append_basic_block, ("loop", "after"))
            builder.branch(loop)
            builder.position_at_end(loop)
            k = builder.phi(integer)
            sums = [[builder.phi(vector) for _ in groups] for _ in x]
            line = builder.gep(weight, [builder.mul(k, integer(n_columns))])
            weights = [load(builder.gep(line, [integer(group)])) for group in groups]
            place = builder.gep(following_rows, [builder.mul(k, integer(n_rows))])
            builder.call(prefetch, [builder.bitcast(place, byte), *for_reading])
            added = []
            for row, of_row in zip(x, sums, strict=True):
                lane = builder.insert_element(
                    ir.Constant(vector, ir.Undefined), builder.load(builder.gep(row, [k])), integer(0)
                )
                value = builder.shuffle_vector(
                    lane, lane, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
                )
                added.append([builder.call(fma, [value, w, s]) for w, s in zip(weights, of_row, strict=True)])
            following = builder.add(k, integer(1))
            for phi, start, value in [(k, begin, following)] + [
                (phi, nothing, value) for a, b in zip(sums, added, strict=True) for phi, value in zip(a, b, strict=True)
            ]:
                phi.add_incoming(start, before)
                phi.add_incoming(value, loop)
            builder.cbranch(builder.icmp_signed("<", following, end), loop, after)
            builder.position_at_end(after)
            is_first, is_last = builder.icmp_signed("==", begin, integer(0)), builder.icmp_signed("==", end, dim)
            for row, of_row in enumerate(added):
                for group, value in zip(groups, of_row, strict=True):
                    target = pointer(9, u_at, builder.mul(width, integer(row)), group)
                    earlier = builder.select(is_first, nothing, load(target))
                    subtracted = builder.select(is_last, load(pointer(7, column, group)), nothing)
                    value = builder.fsub(builder.fadd(earlier, value), subtracted)
                    builder.store(value, builder.bitcast(target, vector.as_pointer()), align=4)
            return context.get_dummy_value()

        n = types.intp
        return types.none(x, n, n, weight, n, n, n, threshold, n, u, n, n), codegen

    return compute


tile_wide, row_wide = tile(ROWS, WIDE), tile(1, WIDE)
tile_narrow, row_narrow = tile(ROWS, LANES), tile(1, LANES)


@njit(nogil=True, inline="always")
def panel(left):
    """Return the number of products in the next panel, for a number of products that are left."""
    if left >= 2 * PANEL:
        return PANEL
    return (left // 2 + 15) // 16 * 16 if left > PANEL else left


@njit(nogil=True, cache=True)
def project(x, dim, weight, threshold, u):
    """Fill u (n * width,) float32 with xW - t, for x (n * dim,) float32, and W and t (width,) of `packed`."""
    n, width = len(x) // dim, len(threshold)
    most = max(1, CACHE // (4 * dim * ROWS)) * ROWS
    for first in range(0, n, most):
        stop = min(n, first + most)
        column = 0
        while column < width:
            columns = WIDE if column + WIDE <= width else LANES
            begin = 0
            while begin < dim:
                end = begin + panel(dim - begin)
                row = first
                while row < stop:
                    at, place, values = row * dim, column * dim, row * width + column
                    if stop - row >= ROWS:
                        if columns == WIDE:
                            tile_wide(x, at, dim, weight, place, begin, end, threshold, column, u, values, width)
                        else:
                            tile_narrow(x, at, dim, weight, place, begin, end, threshold, column, u, values, width)
                        row += ROWS
                    else:
                        if columns == WIDE:
                            row_wide(x, at, dim, weight, place, begin, end, threshold, column, u, values, width)
                        else:
                            row_narrow(x, at, dim, weight, place, begin, end, threshold, column, u, values, width)
                        row += 1
                begin = end
            column += columns


def packed(weight: Array, threshold: Array) -> tuple[Array, Array]:
    """Return a weight (d, k) and thresholds (k,) in the order in which `project` reads them, padded with zeros.

    The columns are cut into groups of WIDE, as long as there are that many, and then of LANES; a group is contiguous.
    """
    d, k = weight.shape
    width = -(-k // LANES) * LANES
    padded = np.zeros((d, width), np.float32)
    padded[:, :k] = weight
    starts = [*range(0, width // WIDE * WIDE, WIDE), *range(width // WIDE * WIDE, width, LANES), width]
    groups = [padded[:, start:stop].reshape(-1) for start, stop in pairwise(starts)]
    return np.concatenate(groups), np.pad(threshold, (0, width - k))
