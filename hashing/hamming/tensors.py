"""hashing.hamming on torch tensors: the same functions, equal to the bit, on whatever device the codes lie.

A distance is a matrix product of bits, [a, not a] . [not b, b], which the matrix units of a GPU are made for. SLICE
bytes are multiplied at once: a sum of so many ones is exact in float16, in any order and with any accumulator.
Arguments are those of hashing.hamming, as tensors on one device: codes uint8, labels uint64. Besides what is returned,
nothing of more than TILE numbers is held.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from . import checks

SLICE = 256  # bytes, of 2048 bits
TILE = 1 << 24  # pairs, or bits, at a time
QUERIES = 1024


def histogram(
    queries: Tensor, database: Tensor, n_bits: int, query_labels: Tensor | None = None, labels: Tensor | None = None
) -> Tensor:
    """(2, q, n_bits + 1) int64: how many rows lie at each distance, [0] all of them, [1] those that share a label."""
    if query_labels is None and labels is None:
        none = (torch.empty((len(codes), 0), dtype=torch.uint64, device=codes.device) for codes in (queries, database))
        total = graded_histogram(queries, database, n_bits, *none, 1)
        return torch.cat([total, torch.zeros_like(total)])
    counts = graded_histogram(queries, database, n_bits, query_labels, labels, 2)
    counts[0] += counts[1]
    return counts


def graded_histogram(
    queries: Tensor, database: Tensor, n_bits: int, query_labels: Tensor, labels: Tensor, n_grades: int
) -> Tensor:
    """(n_grades, q, n_bits + 1) int64: at [g] the rows that share g labels, at the last grade that many or more."""
    checks.check_histogram(queries, database, n_bits, query_labels, labels, n_grades)
    query_labels, labels, n_bins = query_labels.contiguous(), labels.contiguous(), n_bits + 1
    counts = torch.zeros((len(queries), n_grades * n_bins), dtype=torch.int64, device=queries.device)
    one = torch.ones((), dtype=torch.int64, device=queries.device)
    for some, rows in tiles(queries, database, 8 * labels.shape[1]):
        cell = between(queries[some], database[rows]).long()
        if n_grades > 1:
            shared = common(query_labels[some].view(torch.uint8), labels[rows].view(torch.uint8))
            cell += shared.clamp_(max=n_grades - 1).long() * n_bins
        counts[some].scatter_add_(1, cell, one.expand(cell.shape))  # integers: the order does not matter
    return counts.reshape(len(queries), n_grades, n_bins).transpose(0, 1).contiguous()


def distances(queries: Tensor, database: Tensor, query_rows: Tensor, rows: Tensor) -> Tensor:
    """(m,) int32: the distance of query query_rows[i] from row rows[i], for each i of m."""
    checks.check_codes(queries, database)
    step = TILE // (8 * queries.shape[1])
    parts = [torch.empty(0, dtype=torch.int32, device=queries.device)]
    for i, j in zip(query_rows.split(step), rows.split(step), strict=True):
        parts.append(bits(queries[i] ^ database[j]).sum(dim=1, dtype=torch.int32))
    return torch.cat(parts)


def count_within(queries: Tensor, database: Tensor, radius: int) -> Tensor:
    """(q,) int64: how many rows lie within a radius of each query."""
    checks.check_codes(queries, database, radius)
    counts = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for some, rows in tiles(queries, database):
        counts[some] += (between(queries[some], database[rows]) <= min(radius, checks.MAX_BITS)).sum(dim=1)
    return counts


def within(queries: Tensor, database: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """The rows within a radius of each query: offsets (q + 1,) int64, positions int64, distances int32."""
    checks.check_codes(queries, database, radius)
    found = [torch.empty((3, 0), dtype=torch.int64, device=queries.device)]
    for some, rows in tiles(queries, database):
        distance = between(queries[some], database[rows])
        i, j = torch.nonzero(distance <= min(radius, checks.MAX_BITS), as_tuple=True)
        found.append(torch.stack([i + some.start, j + rows.start, distance[i, j]]))
    i, positions, measured = torch.cat(found, dim=1)
    order = torch.sort(i, stable=True).indices
    offsets = torch.bincount(i, minlength=len(queries)).cumsum(0)
    return torch.cat([offsets.new_zeros(1), offsets]), positions[order], measured[order].to(torch.int32)


def topk(queries: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The nearest rows of each query, by (distance, position): distances (q, k) int32, positions (q, k) int64."""
    checks.check_codes(queries, database)
    if k < 1:
        raise ValueError(f"expected k >= 1, found {k}")
    k, n = min(k, len(database)), max(1, len(database))
    best = torch.full((len(queries), k), n * (checks.MAX_BITS + 1), dtype=torch.int64, device=queries.device)
    for some, rows in tiles(queries, database):
        position = torch.arange(rows.start, rows.stop, device=queries.device)
        keys = between(queries[some], database[rows]).long() * n + position  # no two are equal: no tie is left
        keys = keys.topk(min(k, keys.shape[1]), largest=False, sorted=False).values
        best[some] = torch.cat([best[some], keys], dim=1).topk(k, largest=False).values
    return best.div(n, rounding_mode="floor").to(torch.int32), best % n


def tiles(queries: Tensor, database: Tensor, extra: int = 0) -> Iterator[tuple[slice, slice]]:
    """Queries and rows of which neither the pairs nor the bits, of codes or of `extra` bytes a row, are over TILE."""
    widest = 8 * min(max(2 * queries.shape[1], extra), SLICE)
    step = max(1, TILE // max(widest, min(len(queries), QUERIES)))
    for i in range(0, len(queries), QUERIES):
        for j in range(0, len(database), step):
            yield slice(i, min(i + QUERIES, len(queries))), slice(j, min(j + step, len(database)))


def between(queries: Tensor, rows: Tensor) -> Tensor:
    """(q, n) int16 distances."""
    return common(torch.cat([queries, ~queries], dim=1), torch.cat([~rows, rows], dim=1))


def common(left: Tensor, right: Tensor) -> Tensor:
    """(q, n) int16: how many bits are set both in left (q, B) and in right (n, B)."""
    total = torch.zeros((len(left), len(right)), dtype=torch.int16, device=left.device)
    kind = torch.float16 if left.is_cuda else torch.float32
    for start in range(0, left.shape[1], SLICE):
        a, b = (bits(part[:, start : start + SLICE]).to(kind) for part in (left, right))
        total += (a @ b.T).to(torch.int16)
    return total


def bits(codes: Tensor) -> Tensor:
    """(n, B) uint8 -> (n, 8 B) uint8, each 0 or 1."""
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return ((codes[:, :, None] >> places) & 1).reshape(len(codes), -1)
