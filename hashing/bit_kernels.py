"""The inner loop of hashing.bits.pack_signs, compiled by Numba on first use and cached on disk."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

GROUP = 32  # columns packed at once: their moments fit the registers


@intrinsic
def pack_group(typing, u, n_bits, n, codes, n_bytes, column, moments):
    """Do what `pack_signs` does for columns column to column + GROUP of n >= 1 rows, but for moments[0]."""

    def codegen(context, builder, signature, args):
        integer, number = ir.IntType(64), ir.IntType(32)
        singles, doubles, counts = (ir.VectorType(kind, GROUP) for kind in (ir.FloatType(), ir.DoubleType(), number))
        u, codes, moments = (context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 3, 6))
        _, n_bits, n, _, n_bytes, column, _ = args

        def place(data, at, kind):
            return builder.bitcast(builder.gep(data, [at]), kind.as_pointer())

        rows = [place(moments, builder.add(column, builder.mul(n_bits, integer(row))), doubles) for row in (1, 2, 3)]
        ones, total, squares = (builder.load(row, align=8, typ=doubles) for row in rows)
        before, loop, after = builder.block, *map(builder.append_basic_block, ("loop", "after"))
        builder.branch(loop)
        builder.position_at_end(loop)
        i, *state = map(builder.phi, (integer, counts, doubles, doubles))
        at = builder.add(builder.mul(i, n_bits), column)
        values = builder.load(place(u, at, singles), align=4, typ=singles)
        signs = builder.fcmp_ordered(">=", values, ir.Constant(singles, None))
        at = builder.add(builder.mul(i, n_bytes), builder.udiv(column, integer(8)))
        builder.store(builder.bitcast(signs, ir.IntType(GROUP)), place(codes, at, ir.IntType(GROUP)), align=1)
        values = builder.fpext(values, doubles)
        following = builder.add(i, integer(1))
        added = [
            builder.add(state[0], builder.zext(signs, counts)),
            builder.fadd(state[1], values),
            builder.fadd(state[2], builder.fmul(values, values)),
        ]
        starts = integer(0), ir.Constant(counts, None), total, squares
        for phi, start, value in zip((i, *state), starts, (following, *added), strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, n), loop, after)
        builder.position_at_end(after)
        for row, value in zip(rows, (builder.fadd(ones, builder.uitofp(added[0], doubles)), *added[1:]), strict=True):
            builder.store(value, row, align=8)
        return context.get_dummy_value()

    n = types.intp
    return types.none(u, n, n, codes, n, n, moments), codegen


@njit(nogil=True, cache=True)
def pack_signs(u, n_bits, codes, moments):
    """Fill codes (n * B,) uint8 with the packed signs of u (n * n_bits,) float32, and add its moments to (4, n_bits).

    See `hashing.bits.pack_signs`. The sums are taken row by row, so they have the same bits on every machine.
    """
    n_bytes = (n_bits + 7) // 8
    n = len(u) // n_bits
    ones, sums, squares = moments[1], moments[2], moments[3]
    moments[0] += n
    whole = n_bits // GROUP * GROUP if n else 0
    for j in range(0, whole, GROUP):
        pack_group(u, n_bits, n, codes, n_bytes, j, moments)
    for i in range(n if whole < n_bits else 0):
        row = u[i * n_bits : (i + 1) * n_bits]
        for j in range(whole, n_bits):
            value = np.float64(row[j])
            ones[j] += 1.0 if value >= 0 else 0.0
            sums[j] += value
            squares[j] += value * value
        for j in range(whole, n_bits, 8):
            byte = 0
            for b in range(min(8, n_bits - j)):
                byte |= (1 if row[j + b] >= 0 else 0) << b
            codes[i * n_bytes + j // 8] = byte
