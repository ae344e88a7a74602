"""The inner loops of hashing.neighbours.exact, compiled by Numba on first use and cached on disk."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from ..hamming.simd import splat, trailing_zeros, use_wide_vectors

GROUP = 64  # products compared at once, with one bit each as the result
LANES = 16  # partial sums, one for each lane of a vector register
EUCLIDEAN, COSINE, INNER_PRODUCT = 0, 1, 2  # metrics


@intrinsic
def passing(typing, products, i, lowest, start, limit):
    """Return a uint64 whose bit b says whether products[i, j] + lowest[j] is not above the limit, j = start + b.

    A sum that is NaN passes.
    """

    def codegen(context, builder, signature, args):
        group = ir.VectorType(ir.FloatType(), GROUP)
        products, lowest = (context.make_array(signature.args[a])(context, builder, args[a]) for a in (0, 2))
        row = builder.mul(args[1], builder.extract_value(products.shape, 1))
        places = (products.data, builder.add(row, args[3])), (lowest.data, args[3])
        pointers = (builder.bitcast(builder.gep(data, [place]), group.as_pointer()) for data, place in places)
        total = builder.fadd(*(builder.load(pointer, align=4, typ=group) for pointer in pointers))
        near = builder.fcmp_unordered("<=", total, splat(builder, args[4], group))  # NaN, from overflow, passes
        return builder.bitcast(near, ir.IntType(GROUP))

    return types.uint64(products, types.intp, lowest, types.intp, types.float32), codegen


@njit(nogil=True, cache=True)
def hold_candidates(products, lowest, start, query_data, row_data, held, best, metric):
    """Collect the candidates of each query in a tile of rows: those whose float32 distance may be among the k smallest.

    A distance is at least least[i] + products[i, j] + lowest[j]; the sum of the last two is compared with limits[i].
    When the buffer of a query is full, its candidates are sifted; if few of them drop out, they are settled.

    Parameters
    ----------
    products
        (q, m) float32, -2 qx; m is the number of rows rounded up to whole groups.
    lowest
        (m,) float32, lower bounds of a row's contribution to the distance, such as |x|^2.
    start
        Position of the tile's first row in x.
    query_data
        queries (q, d) float32; own (q,), the id that each query leaves out; least and slack (q,) float32, the lower
        bound of a query's contribution to the distance, and the difference of its upper and lower bounds.
    row_data
        x (n, d) float32; ids (n,); gap (n,) float32, the difference of the upper and lower bounds of a row's
        contribution.
    held
        The candidates: sums (q, width) float32 and their rows; counts (q,), their number; limits (q,) float32.
    best
        ids (q, k) and distances (q, k) float64 of the nearest rows so far, the farthest last.
    metric
        EUCLIDEAN, COSINE or INNER_PRODUCT.
    """
    use_wide_vectors()
    queries, own, least, slack = query_data
    x, ids, gap = row_data
    sums, rows, counts, limits = held
    n_rows, k = min(len(x) - start, products.shape[1]), best[1].shape[1]
    for i in range(len(queries)):
        n, limit = counts[i], limits[i]
        for group in range(0, n_rows, GROUP):
            near = passing(products, i, lowest, group, limit)
            if n_rows - group < GROUP:
                near &= (np.uint64(1) << np.uint64(n_rows - group)) - np.uint64(1)
            while near:
                j = group + np.int64(trailing_zeros(near))
                near &= near - np.uint64(1)
                total = products[i, j] + lowest[j]
                if total > limit or ids[start + j] == own[i]:
                    continue
                sums[i, n], rows[i, n] = total if total == total else -np.inf, start + j
                n += 1
                if n == sums.shape[1]:
                    n, limit = sift(sums[i], rows[i], n, k, gap, slack[i], limit)
                    if 4 * n > 3 * sums.shape[1]:  # most differ by less than rounding errors
                        settle(queries[i], x, ids, rows[i, :n], best[0][i], best[1][i], metric)
                        n, limit = 0, np.float32(best[1][i, k - 1] - least[i])
        counts[i], limits[i] = n, limit


@njit(nogil=True, cache=True)
def settle_all(query_data, row_data, held, best, metric):
    """Settle the remaining candidates of each query. Parameters are those of hold_candidates."""
    queries, _, _, slack = query_data
    x, ids, gap = row_data
    sums, rows, counts, limits = held
    for i in range(len(queries)):
        n, _ = sift(sums[i], rows[i], counts[i], best[1].shape[1], gap, slack[i], limits[i])
        if n:
            settle(queries[i], x, ids, rows[i, :n], best[0][i], best[1][i], metric)


@njit(nogil=True)
def sift(sums, rows, n, k, gap, slack, limit):
    """Move to the front those of n sums that may be among the k smallest, and return their number and the new limit.

    k rows are no farther than the k-th smallest sum plus the largest error of these k sums.
    """
    if n <= k:
        return n, limit
    select(sums, rows, n, k)
    widest = slack
    for j in range(k):
        widest = max(widest, slack + gap[rows[j]])
    bound = sums[k - 1] + widest
    if not bound < limit:  # or NaN
        return n, limit
    kept = k
    for j in range(k, n):
        if sums[j] <= bound:
            sums[kept], rows[kept] = sums[j], rows[j]
            kept += 1
    return kept, bound


@njit(nogil=True)
def settle(query, x, ids, rows, near, far, metric):
    """Compute the distances of rows in float64, and update near and far, the ids and distances (k,) of the nearest.

    The farthest is last, before and after.
    """
    k, n = len(far), len(rows)
    distances, both = np.empty(k + n), np.empty(k + n, np.int64)
    distances[:k], both[:k] = far, near
    size = k
    for row in rows:
        distance = measure(query, x[row], metric)
        if distance <= far[k - 1]:
            distances[size], both[size] = distance, ids[row]
            size += 1
    if size > k:
        select(distances, both, size, k)
        far[:], near[:] = distances[:k], both[:k]


@njit(nogil=True, cache=True)
def select_all(distances, ids, k):
    """Move the k smallest pairs (distance, id) of each row to the front, the largest of them to place k - 1."""
    for i in range(len(ids)):
        select(distances[i], ids[i], ids.shape[1], k)


@njit(nogil=True)
def select(keys, ids, n, k):
    """Move the k smallest of n pairs (key, id) to the front, the largest of them to place k - 1.

    Source: Hoare, "Algorithm 65: Find", Communications of the ACM, 1961.
    """
    low, high = 0, n - 1
    while low < high:
        key, tie = keys[(low + high) // 2], ids[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while keys[i] < key or (keys[i] == key and ids[i] < tie):
                i += 1
            while keys[j] > key or (keys[j] == key and ids[j] > tie):
                j -= 1
            if i <= j:
                keys[i], keys[j] = keys[j], keys[i]
                ids[i], ids[j] = ids[j], ids[i]
                i, j = i + 1, j - 1
        if k - 1 <= j:
            high = j
        elif k - 1 >= i:
            low = i
        else:
            return


def sum_of_terms(name, term):
    """Return an intrinsic: the float64 sum of term(query[j], row[j]) for j < whole, summed lane by lane.

    `whole` is a multiple of LANES. `term` builds the term of two vectors of doubles.
    """

    def function(typing, query, row, whole):
        return types.float64(query, row, types.intp), codegen

    def codegen(context, builder, signature, args):
        floats, doubles = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.DoubleType(), LANES)
        query, row = (context.make_array(signature.args[a])(context, builder, args[a]).data for a in (0, 1))
        total = cgutils.alloca_once_value(builder, ir.Constant(doubles, [0.0] * LANES))
        step = context.get_constant(types.intp, LANES)
        with cgutils.for_range_slice(builder, step.type(0), args[2], step, step.type) as (j, _):
            pointers = (builder.bitcast(builder.gep(data, [j]), floats.as_pointer()) for data in (query, row))
            a, b = (builder.fpext(builder.load(pointer, align=4, typ=floats), doubles) for pointer in pointers)
            builder.store(builder.fadd(builder.load(total), term(builder, a, b)), total)
        lanes = builder.load(total)
        out = ir.Constant(ir.DoubleType(), 0.0)
        for lane in range(LANES):
            out = builder.fadd(out, builder.extract_element(lanes, ir.Constant(ir.IntType(32), lane)))
        return out

    function.__name__ = name
    return intrinsic(function)


def squared_difference(builder, a, b):
    difference = builder.fsub(a, b)
    return builder.fmul(difference, difference)


squares = sum_of_terms("squares", squared_difference)
products_of = sum_of_terms("products_of", lambda builder, a, b: builder.fmul(a, b))


@njit(nogil=True)
def measure(query, row, metric):
    """Return |q - x|^2 (EUCLIDEAN), 2 (1 - cos(q, x)) (COSINE) or -2 qx (INNER_PRODUCT) in float64."""
    if metric == EUCLIDEAN:
        return squared_distance(query, row)
    if metric == INNER_PRODUCT:
        return -2.0 * inner_product(query, row)
    return 2.0 * (1.0 - inner_product(query, row) / np.sqrt(inner_product(query, query) * inner_product(row, row)))


@njit(nogil=True)
def squared_distance(query, row):
    """Return the squared distance in float64, summed in an order that depends only on the dimension."""
    whole = len(query) // LANES * LANES
    total = squares(query, row, whole)
    for j in range(whole, len(query)):
        total += (np.float64(query[j]) - np.float64(row[j])) ** 2
    return total


@njit(nogil=True)
def inner_product(query, row):
    """Return the inner product in float64, summed in an order that depends only on the dimension."""
    whole = len(query) // LANES * LANES
    total = products_of(query, row, whole)
    for j in range(whole, len(query)):
        total += np.float64(query[j]) * np.float64(row[j])
    return total


@njit(nogil=True, cache=True)
def measure_pairs(queries, rows, metric, out):
    """Write to out (m,) what `measure` returns for the m pairs queries[i], rows[i]."""
    for i in range(len(out)):
        out[i] = measure(queries[i], rows[i], metric)
