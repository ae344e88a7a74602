"""Exact Euclidean nearest neighbours over shards: the ground truth of unsupervised retrieval."""

from dataclasses import dataclass

import numpy as np

from ..hamming.distances import frozen
from ..mapreduce import Array, Batch, one_blas_thread

QUERIES, ROWS = 1024, 512  # in a product, of which 2 MiB are held
ENTRY = 16  # bytes that a state holds of one neighbour
HELD = 1 << 25  # bytes at most of the candidates that are held for the queries of a product
PAIRS = 1 << 17  # numbers of listed rows gathered at a time
UNIT = 2.0**-24  # rounding unit of float32
SMALLEST, HUGE = 2.0**-126, 2.0**120  # squared norms beyond which float32 rounds otherwise, or may overflow


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """Statistic: the k rows nearest to each query, its own row left out -> (ids, squared distances), both (q, k).

    ids are int64, distances float64, sorted by (distance, id). A query that meets fewer than k rows is filled up with
    id -1 at distance inf. A float32 product only proposes: every row that its rounding could hide is measured again
    in float64, so the result is the same to the bit for any cut into shards and batches.

    The state is the same table, each row of it in any order but for its largest pair, which is the last: ENTRY
    bytes a neighbour. Where that is too much, reduce by blocks of queries; the result is the same.
    """

    queries: Array  # (q, d) float32
    ids: Array  # (q,) int64
    k: int

    def __post_init__(self):
        if self.queries.ndim != 2 or self.ids.shape != self.queries.shape[:1]:
            raise ValueError(f"expected queries (q, d) with ids (q,), found {self.queries.shape} and {self.ids.shape}")
        if not np.isfinite(self.queries).all():
            raise ValueError("expected finite queries, found NaN or infinity")
        if self.k < 1:
            raise ValueError(f"expected k >= 1, found {self.k}")

    def zero(self):
        shape = len(self.queries), self.k
        return np.full(shape, -1, np.int64), np.full(shape, np.inf)

    def update(self, state, batch: Batch):
        if batch.x.ndim != 2 or batch.x.shape[1] != self.queries.shape[1]:
            raise ValueError(f"expected vectors of dimension {self.queries.shape[1]}, found shape {batch.x.shape}")
        x = batch.x.astype(np.float32)
        if not np.isfinite(x).all():
            raise ValueError("expected finite vectors, found NaN or infinity")
        with np.errstate(over="ignore", invalid="ignore"), one_blas_thread():  # what overflows is measured in float64
            self._offer(state, batch.ids.astype(np.int64), x)
        return state

    def merge(self, left, right):
        from . import exact_kernels

        ids, distances = (np.hstack(parts) for parts in zip(left, right, strict=True))
        exact_kernels.select_all(distances, ids, self.k)
        return ids[:, : self.k].copy(), distances[:, : self.k].copy()

    def finish(self, state):
        return nearest(*state, self.k)

    def _offer(self, state, ids, x):
        """Put those of the rows x into the state that are among the nearest so far."""
        from . import exact_kernels

        own, measured, x, ids = (frozen(part) for part in (self.ids, self.queries.astype(np.float32), x, ids))
        centre = measured.mean(axis=0)  # the rounding grows with the norms
        queries = measured - centre
        rows = np.zeros((len(x) + -len(x) % exact_kernels.GROUP, x.shape[1]), np.float32)
        np.subtract(x, centre, out=rows[: len(x)])
        (least, most), (lowest, highest) = norm_bounds(queries), norm_bounds(rows)
        slack, base = frozen(most - least), (x, ids, frozen((highest - lowest)[: len(x)]))
        queries *= -2
        width = min(2 * self.k + 64, len(x) + 1)  # wider than the rows it never fills up
        step = max(1, min(QUERIES, HELD // (8 * width)))
        room = np.empty(step * ROWS, np.float32)
        for i in range(0, len(queries), step):
            some = slice(i, i + step)
            asked = measured[some], own[some], least[some], slack[some]
            best = state[0][some], state[1][some]
            shape = len(queries[some]), width
            limits = (best[1][:, -1] - least[some]).astype(np.float32)
            held = np.empty(shape, np.float32), np.empty(shape, np.int32), np.zeros(shape[0], np.int64), limits
            for j in range(0, len(x), ROWS):
                part = slice(j, j + ROWS)
                shape = len(queries[some]), len(rows[part])
                products = np.matmul(queries[some], rows[part].T, out=room[: shape[0] * shape[1]].reshape(shape))
                exact_kernels.offer(products, lowest[part], j, asked, base, held, best)
            exact_kernels.settle_all(asked, base, held, best)


def norm_bounds(x: Array) -> tuple[Array, Array]:
    """|x|^2 of each row less, and plus, its share in what |q|^2 - 2qx + |x|^2 may be wrong by: both (n,) float32.

    The bounds hold whatever the order of the sums (Higham 2002, section 3.1): d roundings in a product and d in a norm,
    4 in the differences from the centre, and 16 in the sums and in the limit, which have no part that is over 5 times
    as large as the norms where the comparison is close. Where float32 may overflow they are infinite.
    """
    norms = np.einsum("ij,ij->i", x, x)
    margin = (3 * x.shape[1] + 24) * UNIT * (norms + SMALLEST)
    bounds = np.where(norms < HUGE, [norms - margin, norms + margin], [[-np.inf], [np.inf]])
    return tuple(frozen(bounds.astype(np.float32)))


def nearest(ids: Array, distances: Array, k: int) -> tuple[Array, Array]:
    """The first k of each row by (distance, id)."""
    order = np.argsort(ids, axis=1)  # then stable by distance: faster than lexsort, and only equal pairs may swap
    ids, distances = np.take_along_axis(ids, order, 1), np.take_along_axis(distances, order, 1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(distances, order, 1)


def squared_distances(queries: Array, x: Array, query_rows: Array, rows: Array) -> Array:
    """(m,) float64 squared distances of m listed pairs; each is summed alone, so no other pair can change its bits."""
    from . import exact_kernels

    out = np.empty(len(rows))
    step = max(1, PAIRS // max(1, x.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        pairs = (frozen(part.astype(np.float32)) for part in (queries[query_rows[block]], x[rows[block]]))
        exact_kernels.squared_distances(*pairs, out[block])
    return out
