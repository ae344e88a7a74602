"""Candidates by binary codes: the nearest rows, and the rows within a radius, over shards of packed codes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import bits
from ..hamming.checks import check_k, check_radius
from ..hamming.layout import read_only
from ..hamming.scan import count_within, topk, within
from ..mapreduce import Array, Batch, Counts
from .exact import first_k

NO_DISTANCE = np.iinfo(np.int32).max  # Hamming distance of the padding id -1; other distances are padded with inf
STATE_BYTES = 1 << 26  # size limit of a state that a worker returns, 64 MiB
ENTRY_BYTES = 20  # bytes of one row in the largest of these states, that of Within

Table = tuple[Array, Array]  # distances (q, k) and ids (q, k) int64, padded if there are fewer rows


def query_blocks(sizes: Array, entry_bytes: int = ENTRY_BYTES) -> Iterator[slice]:
    """Yield blocks of consecutive queries whose results fit in a state of STATE_BYTES, with entry_bytes for each row.

    sizes (q,) are upper bounds of the number of rows that each query finds. Raises ValueError if the rows of a single
    query do not fit.
    """
    most = STATE_BYTES // entry_bytes
    if (sizes > most).any():
        i = int(sizes.argmax())
        raise ValueError(f"expected at most {most:,} rows for a query, found {sizes[i]:,} for query {i}")
    ends, start = sizes.cumsum(), 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        stop = int(np.searchsorted(ends, before + most, "right"))
        yield slice(start, stop)
        start = stop


class NearestRows:
    """Base of statistics of the k nearest rows of each query, whose state and result are a table (q, k)."""

    def merge(self, left: Table, right: Table) -> Table:
        distances, ids = (np.hstack(parts) for parts in zip(left, right, strict=True))
        return first_k(distances, ids, left[0].shape[1])

    def finish(self, state: Table) -> Table:
        return state


@dataclass(frozen=True, eq=False)
class TopK(NearestRows):
    """Statistic over packed codes: the k nearest rows -> distances (q, k) int32, ids (q, k) int64.

    Sorted by (distance, id), and equal for any cut into shards and batches. If there are fewer than k rows, the rest is
    filled with id -1 at distance NO_DISTANCE. Unlike in NearestNeighbours, a row with a query's own id is not left out.

    Examples
    --------
    >>> nearest = TopK(np.array([[0b00]], np.uint8), k=2)
    >>> batch = Batch(np.array([7, 8, 9]), np.array([[0b11], [0b01], [0b00]], np.uint8))
    >>> nearest.finish(nearest.update(nearest.zero(), batch))
    (array([[0, 1]], dtype=int32), array([[9, 8]]))
    """

    codes: Array  # (q, B) uint8
    k: int
    sorted_ids: bool = False  # whether the ids of each batch are known to be sorted; otherwise this is checked

    def __post_init__(self) -> None:
        check_k(self.k)

    def zero(self) -> Table:
        return empty_table(len(self.codes), self.k, NO_DISTANCE, np.int32)

    def update(self, state: Table, batch: Batch) -> Table:
        if not self.sorted_ids and (batch.ids[1:] < batch.ids[:-1]).any():  # topk breaks ties by position
            batch = batch.take(np.argsort(batch.ids))
        distances, positions = topk(self.codes, batch.x, self.k)
        width = (distances <= state[0][:, -1:]).sum(axis=1).max(initial=0)  # the other columns are too far
        return self.merge(state, (distances[:, :width], batch.ids[positions[:, :width]]))

    def merge(self, left: Table, right: Table) -> Table:
        from . import merge_kernels

        distances, ids = empty_table(len(self.codes), self.k, NO_DISTANCE, np.int32)
        a, b, c, d = map(read_only, (*left, *right))
        merge_kernels.merge_tables(a, b, c, d, distances, ids)
        return distances, ids


@dataclass(frozen=True, eq=False)
class AsymmetricTopK(NearestRows):
    """Statistic over packed codes: the k rows nearest to real-valued queries -> distances (q, k) float64, ids (q, k).

    d(u, b) is the sum of |u_j| over the bits j where b_j differs from [u_j >= 0]: the L1 distance from u to the nearest
    point with the code b. With b in {-1, +1} it is (|u|_1 - <u, b>) / 2, so it ranks rows by their inner product.
    Distances are summed in the order of the bits, so they do not depend on other rows or on the cut into shards. Ties
    go to the lower id. If there are fewer than k rows, the rest is filled with id -1 at distance inf.

    Source: Jain, Jegou & Gros, "Asymmetric Hamming Embedding", ACM Multimedia 2011, without its scaling of each bit.
    """

    u: Array  # (q, n_bits) float32; the signs are the bits of the queries
    k: int

    def __post_init__(self) -> None:
        check_k(self.k)
        if self.u.ndim != 2 or not np.isfinite(self.u).all():
            raise ValueError(f"expected finite u (q, n_bits), found shape {self.u.shape} or NaN or infinity")

    def zero(self) -> Table:
        return empty_table(len(self.u), self.k, np.inf, np.float64)

    def update(self, state: Table, batch: Batch) -> Table:
        if batch.x.ndim != 2 or batch.x.shape[1] != bits.n_bytes(self.u.shape[1]):
            raise ValueError(f"expected codes (n, {bits.n_bytes(self.u.shape[1])}), found shape {batch.x.shape}")
        places = np.ascontiguousarray(batch.x.T)  # (B, n)
        for i, u in enumerate(self.u):
            distances = np.zeros(len(batch.ids))
            for costs, place in zip(byte_costs(u), places, strict=True):
                distances += costs[place]
            add_nearest(state, i, distances, batch.ids)
        return state


def add_nearest(table: Table, i: int, distances: Array, ids: Array) -> None:
    """Replace row i of a table (q, k) by the first k, by (distance, id), of itself and of rows with distances (n,)."""
    k = table[0].shape[1]
    near = np.flatnonzero(distances <= table[0][i, -1])
    if len(near) > k:
        near = near[distances[near] <= np.partition(distances[near], k - 1)[k - 1]]
    distances, ids = np.append(table[0][i], distances[near]), np.append(table[1][i], ids[near])
    table[0][i : i + 1], table[1][i : i + 1] = first_k(distances[None], ids[None], k)


def byte_costs(u: Array) -> Array:
    """Return (B, 256) float64: what each value of each code byte adds to the asymmetric distance from u (n_bits,)."""
    width = 8 * bits.n_bytes(len(u))
    padded = np.pad(u.astype(np.float64), (0, width - len(u))).reshape(-1, 8, 1)  # (B, 8, 1)
    ones = bits.unpack(np.arange(256, dtype=np.uint8)[:, None], 8).T  # (8, 256)
    costs = np.where(ones == (padded >= 0), 0, np.abs(padded))
    total = costs[:, 0]
    for j in range(1, 8):
        total = total + costs[:, j]
    return total


@dataclass(frozen=True, eq=False)
class Within:
    """Statistic over packed codes: the rows within a radius, the radius included -> queries, distances, ids, each (m,).

    queries are positions in codes, int64; distances int32; ids int64. Sorted by (query, distance, id).

    Examples
    --------
    >>> near = Within(np.array([[0b00]], np.uint8), radius=1)
    >>> batch = Batch(np.array([7, 8, 9]), np.array([[0b11], [0b01], [0b00]], np.uint8))
    >>> near.finish(near.update(near.zero(), batch))
    (array([0, 0]), array([0, 1], dtype=int32), array([9, 8]))
    """

    codes: Array  # (q, B) uint8
    radius: int

    def __post_init__(self) -> None:
        check_radius(self.radius)

    def zero(self) -> tuple[Array, Array, Array]:
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)

    def update(self, state: tuple[Array, Array, Array], batch: Batch) -> tuple[Array, Array, Array]:
        offsets, positions, distances = within(self.codes, batch.x, self.radius)
        queries = np.repeat(np.arange(len(self.codes)), np.diff(offsets))
        return self.merge(state, (queries, distances, batch.ids[positions]))

    def merge(self, left: tuple[Array, Array, Array], right: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        queries, distances, ids = map(np.concatenate, zip(left, right, strict=True))
        return queries, distances, ids

    def finish(self, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        queries, distances, ids = state
        order = np.lexsort((ids, distances, queries))
        return queries[order], distances[order], ids[order]


@dataclass(frozen=True, eq=False)
class CountWithin(Counts):
    """Statistic over packed codes: the number of rows within a radius of each query -> (q,) int64."""

    codes: Array  # (q, B) uint8
    radius: int

    def __post_init__(self) -> None:
        check_radius(self.radius)

    def zero(self) -> Array:
        return np.zeros(len(self.codes), np.int64)

    def update(self, state: Array, batch: Batch) -> Array:
        return state + count_within(self.codes, batch.x, self.radius)


def empty_table(q: int, k: int, distance: float, dtype: type) -> Table:
    """Return a table of padding: the given distance, and id -1."""
    return np.full((q, k), distance, dtype), np.full((q, k), -1, np.int64)
