"""Candidates by binary codes: the nearest rows, and the rows within a radius, over shards of packed codes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import bits
from ..hamming.checks import check_k
from ..hamming.layout import read_only
from ..hamming.scan import count_within, topk, within
from ..mapreduce import Array, Batch
from .exact import first_k

NO_DISTANCE = np.iinfo(np.int32).max  # Hamming distance beside the padding id -1; other distances are padded with inf
STATE_BYTES = 1 << 26  # size limit of a state that a worker returns, 64 MiB
ENTRY_BYTES = 20  # bytes of one row in the largest of these states, that of Within

Table = tuple[Array, Array]  # distances (q, k) and ids (q, k) int64, of places that no row fills the padding and -1


def query_blocks(sizes: Array) -> Iterator[slice]:
    """Yield blocks of consecutive queries whose results fit in a state of STATE_BYTES.

    Parameters
    ----------
    sizes : (q,) integers, the number of rows that each query finds, at most

    Raises
    ------
    ValueError : where the rows of a single query do not fit
    """
    if (sizes > STATE_BYTES // ENTRY_BYTES).any():
        i = int(sizes.argmax())
        raise ValueError(
            f"expected at most {STATE_BYTES // ENTRY_BYTES:,} rows for a query, found {sizes[i]:,} for query {i}"
        )
    ends, start = sizes.cumsum(), 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        stop = int(np.searchsorted(ends, before + STATE_BYTES // ENTRY_BYTES, "right"))
        yield slice(start, stop)
        start = stop


@dataclass(frozen=True, eq=False)
class TopK:
    """Statistic over packed codes: the k nearest rows -> distances (q, k) int32, ids (q, k) int64.

    Sorted by (distance, id), and bitwise equal for any cut into shards and batches. A query that meets fewer than k
    rows is padded with id -1 at distance NO_DISTANCE. No row is left out, not even one with a query's own id.
    """

    codes: Array  # (q, B) uint8
    k: int
    sorted_ids: bool = False  # the ids of each batch are known to increase, which otherwise is tested

    def __post_init__(self) -> None:
        check_k(self.k)

    def zero(self) -> Table:
        return empty_table(len(self.codes), self.k, NO_DISTANCE, np.int32)

    def update(self, state: Table, batch: Batch) -> Table:
        if not self.sorted_ids and (batch.ids[1:] < batch.ids[:-1]).any():  # topk breaks ties by position
            batch = batch.take(np.argsort(batch.ids))
        distances, positions = topk(self.codes, batch.x, self.k)
        width = (distances <= state[0][:, -1:]).sum(axis=1).max(initial=0)  # further columns can enter no table
        return self.merge(state, (distances[:, :width], batch.ids[positions[:, :width]]))

    def merge(self, left: Table, right: Table) -> Table:
        from . import merge_kernels

        distances, ids = empty_table(len(self.codes), self.k, NO_DISTANCE, np.int32)
        a, b, c, d = map(read_only, (*left, *right))
        merge_kernels.merge(a, b, c, d, distances, ids)
        return distances, ids

    def finish(self, state: Table) -> Table:
        return state


@dataclass(frozen=True, eq=False)
class AsymmetricTopK:
    """Statistic over packed codes: the k rows nearest to real-valued queries -> distances (q, k) float64, ids (q, k).

    d(u, b) is the sum of |u_j| over the bits j where b_j differs from [u_j >= 0], the L1 distance that u must move to
    get the code b. With b in {-1, +1} it is (|u|_1 - <u, b>) / 2, so it ranks rows as the inner product does.
    Distances are summed in the order of the bits, so they depend on no other row and on no cut; ties go to the lower
    id. A query that meets fewer than k rows is padded with id -1 at distance inf.

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
            near = np.flatnonzero(distances <= state[0][i, -1])
            if len(near) > self.k:
                near = near[distances[near] <= np.partition(distances[near], self.k - 1)[self.k - 1]]
            distances, ids = np.append(state[0][i], distances[near]), np.append(state[1][i], batch.ids[near])
            state[0][i : i + 1], state[1][i : i + 1] = first_k(distances[None], ids[None], self.k)
        return state

    def merge(self, left: Table, right: Table) -> Table:
        distances, ids = (np.hstack(parts) for parts in zip(left, right, strict=True))
        return first_k(distances, ids, self.k)

    def finish(self, state: Table) -> Table:
        return state


def byte_costs(u: Array) -> Array:
    """Return (B, 256) float64, the asymmetric distance from u (n_bits,) that each value of each code byte adds."""
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
    """

    codes: Array  # (q, B) uint8
    radius: int

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
class CountWithin:
    """Statistic over packed codes: the number of rows within a radius of each query -> (q,) int64."""

    codes: Array  # (q, B) uint8
    radius: int

    def zero(self) -> Array:
        return np.zeros(len(self.codes), np.int64)

    def update(self, state: Array, batch: Batch) -> Array:
        return state + count_within(self.codes, batch.x, self.radius)

    def merge(self, left: Array, right: Array) -> Array:
        return left + right

    def finish(self, state: Array) -> Array:
        return state


def empty_table(q: int, k: int, distance: float, dtype: type) -> Table:
    """Return a table in which every place is padding: the given distance, and id -1."""
    return np.full((q, k), distance, dtype), np.full((q, k), -1, np.int64)
