"""Operations on vectors of 512 bits that Numba does not offer, as LLVM instructions.

On a processor without such vectors LLVM splits them into shorter ones.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

STEP = 32  # rows whose distances are computed at once
GROUP = 64  # distances compared at once, with one bit each as the result


def word_operation(emit):
    """Return an intrinsic on an integer of any width."""

    @intrinsic
    def operation(typing, word):
        return word(word), lambda context, builder, signature, args: emit(builder, args[0])

    return operation


popcount = word_operation(lambda builder, word: builder.ctpop(word))
trailing_zeros = word_operation(lambda builder, word: builder.cttz(word, ir.Constant(ir.IntType(1), 0)))


@intrinsic
def use_wide_vectors(typing):
    """Let the calling function use vectors of 512 bits where the processor has them; LLVM's default limit is 256."""

    def codegen(context, builder, signature, args):
        attributes = builder.function.attributes
        set.add(attributes, '"prefer-vector-width"="512"')  # llvmlite's own add() rejects names that it does not know
        return context.get_dummy_value()

    return types.none(), codegen


def measure_step(bits, words=0):
    """Return an intrinsic that writes the distances of STEP rows to out (n,) uint16, beginning at out[j].

    A code has `words` words of `bits` bits; with words=0, their number follows from the width of the queries. On its
    own, LLVM would narrow each sum to 16 bits before storing it, which takes longer than counting the bits. Here
    `parts` vectors of 512 bits are interleaved into one, and one shuffle restores the order of its rows.
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

            def ones(w):
                """Yield the bit counts of word w, in `parts` vectors."""
                query = place(queries.data, args[1], width, builder.mul(w, size), word)
                query = splat(builder, builder.load(query, align=1, typ=word), vector)
                rows = place(planes.data, w, plane, builder.mul(args[3], size), vector)
                for part in range(parts):
                    row = builder.gep(rows, [ir.Constant(ir.IntType(64), part)], source_etype=vector)
                    yield builder.call(count, [builder.xor(query, builder.load(row, align=1, typ=vector))])

            sums = [cgutils.alloca_once_value(builder, first) for first in ones(ir.Constant(ir.IntType(64), 0))]

            def add(w):
                for total, more in zip(sums, ones(w), strict=True):
                    builder.store(builder.add(builder.load(total, typ=vector), more), total)

            for w in range(1, words):
                add(ir.Constant(ir.IntType(64), w))
            if not words:
                with cgutils.for_range(builder, builder.udiv(width, size), ir.Constant(ir.IntType(64), 1)) as loop:
                    add(loop.index)
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


step_16, step_32, step_64 = measure_step(16, 1), measure_step(32, 1), measure_step(64, 1)
step_128, step_256, step_long = measure_step(64, 2), measure_step(64, 4), measure_step(64)


def splat(builder, value, vector):
    """Return a vector that repeats one value."""
    lone = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(lone, lone, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None))


@intrinsic
def below(typing, distances, start, limit):
    """Return a uint64 whose bit b says whether distances[start + b] (uint16) is below the limit, for GROUP of them."""

    def codegen(context, builder, signature, args):
        group = ir.VectorType(ir.IntType(16), GROUP)
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        pointer = builder.bitcast(builder.gep(data, [args[1]]), group.as_pointer())
        near = builder.icmp_unsigned("<", builder.load(pointer, align=2, typ=group), splat(builder, args[2], group))
        return builder.bitcast(near, ir.IntType(GROUP))

    return types.uint64(distances, types.intp, types.uint16), codegen
