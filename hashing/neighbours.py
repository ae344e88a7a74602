"""Exact Euclidean nearest neighbours over shards: the ground truth of unsupervised retrieval."""

from dataclasses import dataclass

import numpy as np

from .mapreduce import Array, Batch, one_blas_thread

ROWS = 8192  # of a batch, looked at together
TILE = 1 << 22  # float32 distances held at a time: 16 MiB
PAIRS = 1 << 17  # float64 differences held at a time: 1 MiB, within a core's cache
UNIT = 2.0**-24  # rounding unit of float32


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """Statistic: the k rows nearest to each query, its own row left out -> (ids, squared distances), both (q, k).

    ids are int64, distances float64, sorted by (distance, id). A query that meets fewer than k rows is filled up with
    id -1 at distance inf. A float32 product only proposes: every row that its rounding could hide is measured again
    in float64, so the result is the same to the bit for any cut into shards and batches.
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
        step = max(ROWS, 2 * self.k)
        for start in range(0, len(batch.ids), step):
            x = batch.x[start : start + step].astype(np.float32)
            if not np.isfinite(x).all():
                raise ValueError("expected finite vectors, found NaN or infinity")
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows in float32 is measured in float64
                self._offer(state, batch.ids[start : start + step], x)
        return state

    def merge(self, left, right):
        return nearest(np.hstack([left[0], right[0]]), np.hstack([left[1], right[1]]), self.k)

    def finish(self, state):
        return state

    def _offer(self, state, ids, x):
        """Put those of the rows x into the state that are among the nearest so far."""
        centre = self.queries.mean(axis=0)  # the rounding grows with the norms
        centred = x - centre
        norms = np.square(centred).sum(axis=1)
        step = max(1, TILE // len(x))
        for start in range(0, len(self.queries), step):
            block = slice(start, start + step)
            queries, best = self.queries[block], (state[0][block], state[1][block])
            i, j = self._candidates(queries - centre, centred, norms, best[1][:, -1])
            other = self.ids[block][i] != ids[j]
            i, j = i[other], j[other]
            table = tabulate(i, len(queries), ids[j], squared_distances(queries, x, i, j))
            best[0][:], best[1][:] = self.merge(best, table)

    def _candidates(self, queries, x, norms, kth):
        """Pairs (i, j), sorted by i, with every row j that may be nearer than kth (q,) to query i."""
        own = np.square(queries).sum(axis=1)
        with one_blas_thread():
            distance = queries @ (-2 * x.T)  # (q, n)
        distance += own[:, None]
        distance += norms
        # Bound of the rounding of |q|^2 - 2 q.x + |x|^2, whatever the order of its sums (Higham 2002, section 3.1).
        margin = (2 * x.shape[1] + 16) * UNIT * (own.astype(np.float64) + norms.max())
        limit = kth + margin
        if self.k < len(x) - 1 and np.isinf(kth).any():  # of k + 1 rows one may be the query's own
            limit = np.minimum(limit, np.partition(distance, self.k, axis=1)[:, self.k] + 2 * margin)
        limit = np.nextafter(limit.astype(np.float32), np.float32(np.inf))
        return np.nonzero(~(distance > limit[:, None]))  # not <=, since an overflow gives NaN


def nearest(ids: Array, distances: Array, k: int) -> tuple[Array, Array]:
    """The first k of each row by (distance, id)."""
    order = np.lexsort((ids, distances), axis=-1)[:, :k]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(distances, order, 1)


def tabulate(rows: Array, n_rows: int, ids: Array, distances: Array) -> tuple[Array, Array]:
    """Pairs listed row by row, laid out as a table (n_rows, longest row) filled up with id -1 at distance inf."""
    counts = np.bincount(rows, minlength=n_rows)
    columns = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = n_rows, counts.max()
    table = np.full(shape, -1, np.int64), np.full(shape, np.inf)
    table[0][rows, columns], table[1][rows, columns] = ids, distances
    return table


def squared_distances(queries: Array, x: Array, query_rows: Array, rows: Array) -> Array:
    """(m,) float64 squared distances of m listed pairs; each is summed alone, so no other pair can change its bits."""
    out = np.empty(len(rows))
    step = max(1, PAIRS // x.shape[1])
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        difference = queries[query_rows[block]].astype(np.float64) - x[rows[block]]
        out[block] = np.square(difference, out=difference).sum(axis=1)
    return out
