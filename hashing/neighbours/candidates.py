"""Search over shards of packed codes: nearest rows, balls, and exact distances of the rows that were found."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import bits
from ..hamming.distances import count_within, frozen, topk, within
from ..mapreduce import Array, Batch
from .exact import nearest

NONE = np.iinfo(np.int32).max  # the Hamming distance of a place that no row fills; of other distances it is inf
STATE_BYTES = 1 << 26  # bytes of the largest state: 64 MiB
ENTRY = 20  # bytes at most of one row that was found


def query_blocks(sizes: Array) -> Iterator[slice]:
    """Consecutive queries, of which query i finds at most sizes[i] rows (q,), in states of at most 64 MiB.

    Raises ValueError where one query alone finds more.
    """
    if (sizes > STATE_BYTES // ENTRY).any():
        i = int(sizes.argmax())
        raise ValueError(
            f"expected at most {STATE_BYTES // ENTRY:,} rows for a query, found {sizes[i]:,} for query {i}"
        )
    ends, start = sizes.cumsum(), 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        stop = int(np.searchsorted(ends, before + STATE_BYTES // ENTRY, "right"))
        yield slice(start, stop)
        start = stop


@dataclass(frozen=True, eq=False)
class TopK:
    """Statistic over packed codes: the k nearest rows -> distances (q, k) int32, ids (q, k) int64.

    Sorted by (distance, id), the same to the bit for any cut into shards and batches. A query that meets fewer than k
    rows is filled up with id -1 at distance NONE. No row is left out, not even one with a query's own id.
    """

    codes: Array  # (q, B) uint8
    k: int

    def __post_init__(self):
        at_least_one(self.k)

    def zero(self):
        return empty_table(len(self.codes), self.k, NONE, np.int32)

    def update(self, state, batch: Batch):
        if (batch.ids[1:] < batch.ids[:-1]).any():  # topk breaks ties by position
            batch = batch.take(np.argsort(batch.ids))
        distances, positions = topk(self.codes, batch.x, self.k)
        width = (distances <= state[0][:, -1:]).sum(axis=1).max(initial=0)  # the others can enter nowhere
        return self.merge(state, (distances[:, :width], batch.ids[positions[:, :width]]))

    def merge(self, left, right):
        from . import merge_kernels

        merged = empty_table(len(self.codes), self.k, NONE, np.int32)
        merge_kernels.merge(*map(frozen, (*left, *right)), *merged)
        return merged

    def finish(self, state):
        return state


@dataclass(frozen=True, eq=False)
class AsymmetricTopK:
    """Statistic over packed codes: the k rows nearest to real-valued queries -> distances, ids (q, k).

    d(u, b) = sum of |u_j| over the bits j where b_j differs from [u_j >= 0]: how far u must move to have the code b.
    It orders rows as the inner product -<u, b> with b in {-1, +1} does, of which it is (|u|_1 - <u, b>) / 2. Distances
    are float64, summed in the order of the bits, so that no other row and no cut changes one; ties go to the lower id.
    A query that meets fewer than k rows is filled up with id -1 at distance inf.

    Source: Asymmetric Hamming Embedding, Jain, Jegou & Gros, ACM Multimedia 2011, without its scaling of each bit.
    """

    u: Array  # (q, n_bits) float32, of which the queries' bits are the signs
    k: int

    def __post_init__(self):
        at_least_one(self.k)
        if self.u.ndim != 2 or not np.isfinite(self.u).all():
            raise ValueError(f"expected finite u (q, n_bits), found shape {self.u.shape} or NaN or infinity")

    def zero(self):
        return empty_table(len(self.u), self.k, np.inf, np.float64)

    def update(self, state, batch: Batch):
        if batch.x.ndim != 2 or batch.x.shape[1] != bits.n_bytes(self.u.shape[1]):
            raise ValueError(f"expected codes (n, {bits.n_bytes(self.u.shape[1])}), found shape {batch.x.shape}")
        places = np.ascontiguousarray(batch.x.T)  # (B, n)
        for i, u in enumerate(self.u):
            distances = np.zeros(len(batch.ids))
            for costs, place in zip(byte_costs(u), places, strict=True):
                distances += costs[place]
            near = np.flatnonzero(distances <= state[0][i, -1])
            if len(near) > self.k:
                near = near[distances[near] <= np.partition(distances[near], self.k - 1)[self.k - 1]]
            found = distances[None, near], batch.ids[None, near]
            state[0][i], state[1][i] = first((state[0][i : i + 1], state[1][i : i + 1]), found, self.k)
        return state

    def merge(self, left, right):
        return first(left, right, self.k)

    def finish(self, state):
        return state


def byte_costs(u: Array) -> Array:
    """(B, 256) float64: what each value of each byte of a code adds to its asymmetric distance from u (n_bits,)."""
    width = 8 * bits.n_bytes(len(u))
    padded = np.pad(u.astype(np.float64), (0, width - len(u))).reshape(-1, 8, 1)  # (B, 8, 1)
    ones = bits.unpack(np.arange(256, dtype=np.uint8)[:, None], 8).T  # (8, 256)
    costs = np.where(ones == (padded >= 0), 0, np.abs(padded))
    return sum(costs[:, j] for j in range(8))


@dataclass(frozen=True, eq=False)
class Within:
    """Statistic over packed codes: the rows within a radius -> queries, distances, ids, each (m,).

    Queries are positions int64, distances int32, ids int64; sorted by (query, distance, id).
    """

    codes: Array  # (q, B) uint8
    radius: int

    def zero(self):
        return np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int64)

    def update(self, state, batch: Batch):
        offsets, positions, distances = within(self.codes, batch.x, self.radius)
        queries = np.repeat(np.arange(len(self.codes)), np.diff(offsets))
        return self.merge(state, (queries, distances, batch.ids[positions]))

    def merge(self, left, right):
        return tuple(map(np.concatenate, zip(left, right, strict=True)))

    def finish(self, state):
        queries, distances, ids = state
        order = np.lexsort((ids, distances, queries))
        return queries[order], distances[order], ids[order]


@dataclass(frozen=True, eq=False)
class CountWithin:
    """Statistic over packed codes: how many rows lie within a radius of each query -> (q,) int64."""

    codes: Array  # (q, B) uint8
    radius: int

    def zero(self):
        return np.zeros(len(self.codes), np.int64)

    def update(self, state, batch: Batch):
        return state + count_within(self.codes, batch.x, self.radius)

    def merge(self, left, right):
        return left + right

    def finish(self, state):
        return state


def empty_table(q: int, k: int, distance: float, dtype: type) -> tuple[Array, Array]:
    """(distances, ids), both (q, k), of places that no row fills yet."""
    return np.full((q, k), distance, dtype), np.full((q, k), -1, np.int64)


def first(left: tuple[Array, Array], right: tuple[Array, Array], k: int) -> tuple[Array, Array]:
    """The first k of each row of two tables (distances, ids), by (distance, id)."""
    ids, distances = nearest(np.hstack([left[1], right[1]]), np.hstack([left[0], right[0]]), k)
    return distances, ids


def at_least_one(k: int) -> None:
    if k < 1:
        raise ValueError(f"expected k >= 1, found {k}")
