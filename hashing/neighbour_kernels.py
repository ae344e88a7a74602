"""The inner loops of hashing.neighbours, compiled by Numba on first use and kept in its cache."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from .hamming_kernels import splat, trailing_zeros, wide

GROUP = 64  # products compared at once, one bit each


@intrinsic
def passing(typing, products, i, lowest, start, limit):
    """Which of GROUP sums products[i, j] + lowest[j], j from start on, are not above the limit: bits of a uint64."""

    def codegen(context, builder, signature, args):
        group = ir.VectorType(ir.FloatType(), GROUP)
        products, lowest = (context.make_array(signature.args[a])(context, builder, args[a]) for a in (0, 2))
        row = builder.mul(args[1], builder.extract_value(products.shape, 1))
        places = (products.data, builder.add(row, args[3])), (lowest.data, args[3])
        pointers = (builder.bitcast(builder.gep(data, [place]), group.as_pointer()) for data, place in places)
        total = builder.fadd(*(builder.load(pointer, align=4, typ=group) for pointer in pointers))
        near = builder.fcmp_unordered("<=", total, splat(builder, args[4], group))  # an overflow gives NaN: let it pass
        return builder.bitcast(near, ir.IntType(GROUP))

    return types.uint64(products, types.intp, lowest, types.intp, types.float32), codegen


@njit(nogil=True, cache=True)
def offer(products, lowest, least, farthest, queries, x, ids, own, heap_ids, heap_distances):
    """Offers each query's heap the rows whose float32 distance could be less than its largest.

    products (q, m) float32 are -2 qx, lowest (m,) and least (q,) float32 what |x|^2 and |q|^2 are at least, m being n
    rounded up to whole groups; farthest (q,) float64 what the k-th distance is at most. Every row that passes is
    measured again in float64. A heap has its largest (distance, id) in front; a query never meets its own id.
    """
    wide()
    for i in range(len(queries)):
        near, far = heap_ids[i], heap_distances[i]
        limit = np.float32(min(far[0], farthest[i]) - least[i])
        for start in range(0, len(x), GROUP):
            found = passing(products, i, lowest, start, limit)
            if len(x) - start < GROUP:
                found &= (np.uint64(1) << np.uint64(len(x) - start)) - np.uint64(1)
            while found:
                j = start + np.int64(trailing_zeros(found))
                found &= found - np.uint64(1)
                if ids[j] != own[i]:
                    distance = squared_distance(queries[i], x[j])
                    if distance < far[0] or (distance == far[0] and ids[j] < near[0]):
                        replace(near, far, ids[j], distance)
                        limit = np.float32(min(far[0], farthest[i]) - least[i])


@njit(nogil=True)
def replace(ids, distances, new, distance):
    """Put a pair in the place of the largest."""
    place, child, size = 0, 1, len(ids)
    while child < size:
        other = child + 1
        if other < size and (
            distances[other] > distances[child] or (distances[other] == distances[child] and ids[other] > ids[child])
        ):
            child = other
        if distances[child] < distance or (distances[child] == distance and ids[child] < new):
            break
        ids[place], distances[place] = ids[child], distances[child]
        place, child = child, 2 * child + 1
    ids[place], distances[place] = new, distance


@njit(nogil=True)
def squared_distance(query, row):
    """In float64, summed in an order that depends on the dimension alone."""
    a = b = c = d = 0.0
    whole = len(query) // 4 * 4
    for j in range(0, whole, 4):
        a += (np.float64(query[j]) - np.float64(row[j])) ** 2
        b += (np.float64(query[j + 1]) - np.float64(row[j + 1])) ** 2
        c += (np.float64(query[j + 2]) - np.float64(row[j + 2])) ** 2
        d += (np.float64(query[j + 3]) - np.float64(row[j + 3])) ** 2
    for j in range(whole, len(query)):
        a += (np.float64(query[j]) - np.float64(row[j])) ** 2
    return (a + b) + (c + d)


@njit(nogil=True, cache=True)
def squared_distances(queries, rows, out):
    """out (m,) becomes the squared distance of each of m pairs."""
    for i in range(len(out)):
        out[i] = squared_distance(queries[i], rows[i])
