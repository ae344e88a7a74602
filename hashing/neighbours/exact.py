"""Exact nearest neighbours over shards, the ground truth of unsupervised retrieval."""

from dataclasses import dataclass
from typing import get_args

import numpy as np

from ..blas import one_blas_thread
from ..functions import check_shape
from ..hamming.checks import check_k
from ..hamming.layout import read_only
from ..mapreduce import Array, Batch, Metric
from ..unit_rows import unit_vectors
from .rounding import norm_bounds

QUERIES, ROWS = 1024, 512  # shape of one matrix product, 2 MiB
ENTRY_BYTES = 16  # bytes of one neighbour in a state
CANDIDATE_BYTES = 1 << 25  # bytes of the candidates for the queries of one product, at most
PAIR_VALUES = 1 << 17  # elements of vectors that pair_distances gathers at a time

METRICS: tuple[Metric, ...] = get_args(Metric)  # positions are the codes of exact_kernels
MEASURED: dict[Metric, str] = {"euclidean": "squared Euclidean", "cosine": "cosine", "ip": "negative inner product"}

State = tuple[Array, Array]  # ids (q, k) int64, distances (q, k) float64 as exact_kernels.measure returns them


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """Statistic over vectors: the k nearest rows of each query -> ids (q, k) int64, distances (q, k) float64.

    The distance of q and x is |q - x|^2 (euclidean), 1 - cos(q, x) (cosine) or -qx (ip). Neighbours are sorted by
    (distance, id). The row with the query's own id is left out. If there are fewer than k rows, the rest is filled with
    id -1 at distance inf.

    A float32 matrix product selects candidates: all rows that can be among the k nearest, given its rounding errors.
    Their distances are then computed in float64. The result is therefore bitwise equal for any cut into shards and
    batches, and on any device.

    The state has the same arrays, unsorted except that each query's largest pair (distance, id) is the last. It takes
    ENTRY_BYTES per neighbour. If that is too much, reduce blocks of queries separately: the result is the same.

    Raises ValueError for vectors of another dimension, for NaN and infinity, and by cosine for vectors of zeros.

    Examples
    --------
    >>> x = np.array([[0.0], [1.0], [3.0]], np.float32)
    >>> nearest = NearestNeighbours(x[:1], ids=np.array([0]), k=2)
    >>> nearest.finish(nearest.update(nearest.zero(), Batch(np.arange(3), x)))
    (array([[1, 2]]), array([[1., 9.]]))
    """

    queries: Array  # (q, d) float32
    ids: Array  # (q,) int64 ids of the queries' own rows
    k: int
    metric: Metric = "euclidean"
    device: str | None = None  # a torch device, such as "cuda"; None: one CPU core, with numpy and Numba

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"expected a metric of {', '.join(METRICS)}, found {self.metric!r}")
        if self.queries.ndim != 2 or self.ids.shape != self.queries.shape[:1]:
            raise ValueError(f"expected queries (q, d) with ids (q,), found {self.queries.shape} and {self.ids.shape}")
        if not np.isfinite(self.queries).all():
            raise ValueError("expected finite queries, found NaN or infinity")
        if self.metric == "cosine":
            unit_vectors(self.queries)
        check_k(self.k)

    def zero(self) -> State:
        shape = len(self.queries), self.k
        return np.full(shape, -1, np.int64), np.full(shape, np.inf)

    def update(self, state: State, batch: Batch) -> State:
        check_shape(batch.x, self.queries.shape[1])
        x = batch.x.astype(np.float32)
        if not np.isfinite(x).all():
            raise ValueError("expected finite vectors, found NaN or infinity")
        with np.errstate(over="ignore", invalid="ignore"), one_blas_thread():  # overflows are computed in float64
            self._add(state, batch.ids.astype(np.int64), x)
        return state

    def merge(self, left: State, right: State) -> State:
        from . import exact_kernels

        ids, distances = (np.hstack(parts) for parts in zip(left, right, strict=True))
        exact_kernels.select_all(distances, ids, self.k)
        return ids[:, : self.k].copy(), distances[:, : self.k].copy()

    def finish(self, state: State) -> State:
        ids, distances = state
        distances, ids = first_k(distances, ids, self.k)
        return ids, distances if self.metric == "euclidean" else distances / 2

    def _add(self, state: State, ids: Array, x: Array) -> None:
        """Add to the state those rows x that are among the nearest so far."""
        from . import exact_kernels

        if self.device is not None:
            self._add_on_device(self.device, state, ids, x)
            return
        own, exact, x, ids = (read_only(part) for part in (self.ids, self.queries.astype(np.float32), x, ids))
        queries, rows = exact.copy(), np.zeros((len(x) + -len(x) % exact_kernels.GROUP, x.shape[1]), np.float32)
        rows[: len(x)] = x
        if self.metric == "euclidean":
            centre = exact.mean(axis=0)  # subtracted because rounding errors grow with the norms
            queries -= centre
            rows[: len(x)] -= centre
        elif self.metric == "cosine":  # 2 (1 - cos) is the squared distance of unit vectors
            queries, rows[: len(x)] = unit_vectors(queries), unit_vectors(x)
        with_norms = self.metric != "ip"
        norms = (np.einsum("ij,ij->i", part, part) for part in (queries, rows))
        (query_low, query_high), (row_low, row_high) = (norm_bounds(part, x.shape[1], with_norms) for part in norms)
        metric = METRICS.index(self.metric)
        query_slack, row_data = read_only(query_high - query_low), (x, ids, read_only((row_high - row_low)[: len(x)]))
        queries *= -2
        width = min(2 * self.k + 64, len(x) + 1)  # one more than the rows, so that few rows never fill it
        step = max(1, min(QUERIES, CANDIDATE_BYTES // (8 * width)))
        buffer = np.empty(step * ROWS, np.float32)
        for i in range(0, len(queries), step):
            some = slice(i, i + step)
            query_data = exact[some], own[some], query_low[some], query_slack[some]
            best = state[0][some], state[1][some]
            shape = len(queries[some]), width
            limits = (best[1][:, -1] - query_low[some]).astype(np.float32)
            held = np.empty(shape, np.float32), np.empty(shape, np.int32), np.zeros(shape[0], np.int64), limits
            for j in range(0, len(x), ROWS):
                part = slice(j, j + ROWS)
                shape = len(queries[some]), len(rows[part])
                products = np.matmul(queries[some], rows[part].T, out=buffer[: shape[0] * shape[1]].reshape(shape))
                exact_kernels.hold_candidates(products, row_low[part], j, query_data, row_data, held, best, metric)
            exact_kernels.settle_all(query_data, row_data, held, best, metric)

    def _add_on_device(self, device: str, state: State, ids: Array, x: Array) -> None:
        from . import exact_tensors

        queries = self.queries.astype(np.float32)
        units = (unit_vectors(queries), unit_vectors(x)) if self.metric == "cosine" else None
        exact_tensors.add(state, self.ids, queries, ids, x, units, METRICS.index(self.metric), device)


def first_k(distances: Array, ids: Array, k: int) -> tuple[Array, Array]:
    """Return the first k of each row of distances (q, m) and ids (q, m), sorted by (distance, id)."""
    order = np.argsort(ids, axis=1)  # followed by a stable sort by distance: faster than lexsort
    distances, ids = np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)


def vector_distances(queries: Array, x: Array, query_rows: Array, rows: Array, metric: Metric = "euclidean") -> Array:
    """Return (m,) float64, the distance of queries[query_rows[i]] from x[rows[i]] for each i of m.

    Vectors are converted to float32. Each distance is summed separately in float64, so it does not depend on the other
    pairs.
    """
    from . import exact_kernels

    out = np.empty(len(rows))
    step = max(1, PAIR_VALUES // max(1, x.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        left, right = queries[query_rows[block]].astype(np.float32), x[rows[block]].astype(np.float32)
        exact_kernels.measure_pairs(read_only(left), read_only(right), METRICS.index(metric), out[block])
    return out if metric == "euclidean" else out / 2
