"""Exact Euclidean nearest neighbours over shards: the ground truth of unsupervised retrieval."""

from dataclasses import dataclass

import numpy as np

from .hamming import frozen
from .mapreduce import Array, Batch, one_blas_thread

QUERIES = ROWS = 1024  # in a product, of which 4 MiB are held
SAMPLE = 4096  # rows of which the k nearest bound what can be nearer
PAIRS = 1 << 17  # numbers of listed rows gathered at a time
UNIT = 2.0**-24  # rounding unit of float32
SMALLEST, HUGE = 2.0**-126, 2.0**120  # squared norms beyond which float32 rounds otherwise, or may overflow


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """Statistic: the k rows nearest to each query, its own row left out -> (ids, squared distances), both (q, k).

    ids are int64, distances float64, sorted by (distance, id). A query that meets fewer than k rows is filled up with
    id -1 at distance inf. A float32 product only proposes: every row that its rounding could hide is measured again
    in float64, so the result is the same to the bit for any cut into shards and batches.

    The state is the same table, each row of it a heap with its largest pair in front.
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
        ids, distances = nearest(np.hstack([left[0], right[0]]), np.hstack([left[1], right[1]]), self.k)
        return ids[:, ::-1].copy(), distances[:, ::-1].copy()

    def finish(self, state):
        return nearest(*state, self.k)

    def _offer(self, state, ids, x):
        """Put those of the rows x into the state that are among the nearest so far."""
        from . import neighbour_kernels

        own, measured, x, ids = (frozen(part) for part in (self.ids, self.queries.astype(np.float32), x, ids))
        centre = measured.mean(axis=0)  # the rounding grows with the norms
        queries = measured - centre
        rows = np.zeros((len(x) + -len(x) % neighbour_kernels.GROUP, x.shape[1]), np.float32)
        np.subtract(x, centre, out=rows[: len(x)])
        (least, most), (lowest, highest) = norm_bounds(queries), norm_bounds(rows)
        queries *= -2
        room = np.empty(QUERIES * ROWS, np.float32)
        for i in range(0, len(queries), QUERIES):
            some = slice(i, i + QUERIES)
            farthest = np.full(len(queries[some]), np.inf)
            if np.isinf(state[1][some]).any():
                np.fmin(farthest, kth(queries[some], rows[: len(x)], highest, self.k) + most[some], out=farthest)
            near = own[some], state[0][some], state[1][some]
            for j in range(0, len(x), ROWS):
                part = slice(j, j + ROWS)
                shape = len(queries[some]), len(rows[part])
                products = np.matmul(queries[some], rows[part].T, out=room[: shape[0] * shape[1]].reshape(shape))
                neighbour_kernels.offer(
                    products, lowest[part], least[some], farthest, measured[some], x[part], ids[part], *near
                )


def norm_bounds(x: Array) -> tuple[Array, Array]:
    """|x|^2 of each row less, and plus, its share in what |q|^2 - 2qx + |x|^2 may be wrong by: both (n,) float32.

    The bounds hold whatever the order of the sums (Higham 2002, section 3.1): d roundings in a product and d in a norm,
    4 in the differences from the centre, and 8 in the sums and in the limit, which have no part that is over 5 times as
    large as the norms where the comparison is close. Where float32 may overflow they are infinite.
    """
    norms = np.einsum("ij,ij->i", x, x)
    margin = (3 * x.shape[1] + 16) * UNIT * (norms + SMALLEST)
    bounds = np.where(norms < HUGE, [norms - margin, norms + margin], [[-np.inf], [np.inf]])
    return tuple(frozen(bounds.astype(np.float32)))


def kth(queries: Array, rows: Array, highest: Array, k: int) -> Array:
    """(q,) float64: what k of the first rows, and the query's own, are not above in -2qx + |x|^2; inf if k is large."""
    n = min(len(rows), SAMPLE)
    if 4 * k >= n:
        return np.full(len(queries), np.inf)
    return np.partition(queries @ rows[:n].T + highest[:n], k, axis=1)[:, k].astype(np.float64)


def nearest(ids: Array, distances: Array, k: int) -> tuple[Array, Array]:
    """The first k of each row by (distance, id)."""
    order = np.lexsort((ids, distances), axis=-1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(distances, order, 1)


def squared_distances(queries: Array, x: Array, query_rows: Array, rows: Array) -> Array:
    """(m,) float64 squared distances of m listed pairs; each is summed alone, so no other pair can change its bits."""
    from . import neighbour_kernels

    out = np.empty(len(rows))
    step = max(1, PAIRS // max(1, x.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        pairs = (frozen(part.astype(np.float32)) for part in (queries[query_rows[block]], x[rows[block]]))
        neighbour_kernels.squared_distances(*pairs, out[block])
    return out
