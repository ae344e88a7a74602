"""The inner loop of hashing.bits.pack_signs, compiled by Numba on first use and cached on disk."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

GROUP = 64  # signs packed at once


@intrinsic
def store_signs(typing, u, at, codes, byte):
    """Write the bits u[at + b] >= 0, b < GROUP, to codes from a byte on; u (n,) float32, codes (m,) uint8."""

    def codegen(context, builder, signature, args):
        group, word = ir.VectorType(ir.FloatType(), GROUP), ir.IntType(GROUP)
        u, codes = (context.make_array(signature.args[a])(context, builder, args[a]) for a in (0, 2))
        values = builder.bitcast(builder.gep(u.data, [args[1]]), group.as_pointer())
        ones = builder.fcmp_ordered(">=", builder.load(values, align=4, typ=group), ir.Constant(group, None))
        target = builder.bitcast(builder.gep(codes.data, [args[3]]), word.as_pointer())
        builder.store(builder.bitcast(ones, word), target, align=1)
        return context.get_dummy_value()

    return types.none(u, types.intp, codes, types.intp), codegen


@njit(nogil=True, cache=True)
def pack_signs(u, n_bits, codes, moments):
    """Fill codes (n * B,) uint8 with the packed signs of u (n * n_bits,) float32, and add its moments to (4, n_bits).

    See `hashing.bits.pack_signs`. The sums are taken row by row, so they have the same bits on every machine.
    """
    n_bytes = (n_bits + 7) // 8
    ones, sums, squares = moments[1], moments[2], moments[3]
    n = len(u) // n_bits
    moments[0] += n
    for i in range(n):
        row = u[i * n_bits : (i + 1) * n_bits]
        for j in range(n_bits):
            value = np.float64(row[j])
            ones[j] += 1.0 if value >= 0 else 0.0
            sums[j] += value
            squares[j] += value * value
        whole = n_bits // GROUP * GROUP
        for j in range(0, whole, GROUP):
            store_signs(u, i * n_bits + j, codes, i * n_bytes + j // 8)
        for j in range(whole, n_bits, 8):
            byte = 0
            for b in range(min(8, n_bits - j)):
                byte |= (1 if row[j + b] >= 0 else 0) << b
            codes[i * n_bytes + j // 8] = byte
