"""The functions of hashing.hamming.scan on torch tensors, on any device, with the same results.

Parameters and results are documented there. A Hamming distance is a matrix product of bits, [a, not a] . [not b, b],
which runs on the matrix units of a GPU. SLICE bytes are multiplied at a time: their sums are exact even in float16, in
any order of summation. Besides the results, memory holds no more than a few times TILE numbers.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .checks import MAX_BITS, check_codes, check_histogram, check_k, check_no_labels, check_radius

SLICE = 256  # bytes that are multiplied at a time, 2048 bits
TILE = 1 << 24  # pairs, or unpacked bits, in memory at a time
QUERIES = 1024  # maximum number of queries in a tile


def histogram(
    queries: Tensor, database: Tensor, n_bits: int, query_labels: Tensor | None = None, labels: Tensor | None = None
) -> Tensor:
    """Return (2, q, n_bits + 1) int64, the rows and the relevant rows at each distance."""
    return relevant_histogram(graded_histogram, queries, database, n_bits, query_labels, labels)


def graded_histogram(
    queries: Tensor, database: Tensor, n_bits: int, query_labels: Tensor, labels: Tensor, n_grades: int
) -> Tensor:
    """Return (n_grades, q, n_bits + 1) int64, the rows of each grade at each distance."""
    check_histogram(queries, database, n_bits, query_labels, labels, n_grades)
    query_labels, labels, n_bins = query_labels.contiguous(), labels.contiguous(), n_bits + 1
    counts = torch.zeros((len(queries), n_grades * n_bins), dtype=torch.int64, device=queries.device)
    one = torch.ones((), dtype=torch.int64, device=queries.device)
    for some, rows in pair_tiles(queries, database, 8 * labels.shape[1]):
        cells = distance_matrix(queries[some], database[rows]).long()
        if n_grades > 1:
            shared = shared_bits(query_labels[some].view(torch.uint8), labels[rows].view(torch.uint8))
            cells += shared.clamp_(max=n_grades - 1).long() * n_bins
        counts[some].scatter_add_(1, cells, one.expand(cells.shape))  # integers: the order does not matter
    return counts.reshape(len(queries), n_grades, n_bins).transpose(0, 1).contiguous()


def relevant_histogram(
    graded: Callable[..., Tensor],
    queries: Tensor,
    database: Tensor,
    n_bits: int,
    query_labels: Tensor | None,
    labels: Tensor | None,
) -> Tensor:
    """Return the result of `histogram`, computed by the function `graded`."""
    if query_labels is None or labels is None:
        check_no_labels(query_labels, labels)
        query_labels, labels = (codes.new_empty((len(codes), 0), dtype=torch.uint64) for codes in (queries, database))
        total = graded(queries, database, n_bits, query_labels, labels, 1)
        return torch.cat([total, torch.zeros_like(total)])
    counts = graded(queries, database, n_bits, query_labels, labels, 2)
    counts[0] += counts[1]
    return counts


def pair_distances(queries: Tensor, database: Tensor, query_rows: Tensor, rows: Tensor) -> Tensor:
    """Return (m,) int32, the distance of queries[query_rows[i]] from database[rows[i]] for each i of m."""
    check_codes(queries, database)
    step = TILE // (8 * queries.shape[1])
    out = torch.empty(len(rows), dtype=torch.int32, device=queries.device)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        out[part] = unpacked_bits(queries[query_rows[part]] ^ database[rows[part]]).sum(dim=1, dtype=torch.int32)
    return out


def count_within(queries: Tensor, database: Tensor, radius: int) -> Tensor:
    """Return (q,) int64, the number of rows within a radius of each query."""
    check_codes(queries, database)
    check_radius(radius)
    counts = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for some, rows in pair_tiles(queries, database):
        counts[some] += (distance_matrix(queries[some], database[rows]) <= min(radius, MAX_BITS)).sum(dim=1)
    return counts


def within(queries: Tensor, database: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets (q + 1,) int64, positions (m,) int64 and distances (m,) int32 of the rows within a radius."""
    check_codes(queries, database)
    check_radius(radius)
    parts = [torch.empty((3, 0), dtype=torch.int64, device=queries.device)]
    for some, rows in pair_tiles(queries, database):
        distances = distance_matrix(queries[some], database[rows])
        i, j = torch.nonzero(distances <= min(radius, MAX_BITS), as_tuple=True)
        parts.append(torch.stack([i + some.start, j + rows.start, distances[i, j]]))
    query_rows, positions, distances = torch.cat(parts, dim=1)
    order = torch.sort(query_rows, stable=True).indices
    offsets = torch.bincount(query_rows, minlength=len(queries)).cumsum(0)
    return torch.cat([offsets.new_zeros(1), offsets]), positions[order], distances[order].to(torch.int32)


def topk(queries: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances (q, k) int32 and positions (q, k) int64 of the nearest rows, by (distance, position)."""
    check_codes(queries, database)
    check_k(k)
    k, n = min(k, len(database)), max(1, len(database))
    best = torch.full((len(queries), k), n * (MAX_BITS + 1), dtype=torch.int64, device=queries.device)
    for some, rows in pair_tiles(queries, database):
        position = torch.arange(rows.start, rows.stop, device=queries.device)
        keys = distance_matrix(queries[some], database[rows]).long() * n + position  # distinct, so there are no ties
        keys = keys.topk(min(k, keys.shape[1]), largest=False, sorted=False).values
        best[some] = torch.cat([best[some], keys], dim=1).topk(k, largest=False).values
    return best.div(n, rounding_mode="floor").to(torch.int32), best % n


def pair_tiles(queries: Tensor, database: Tensor, extra: int = 0) -> Iterator[tuple[slice, slice]]:
    """Yield slices of queries and rows that cover all pairs, each with at most TILE pairs and TILE unpacked bits.

    The bits are those of the codes, or of `extra` bytes per row if these are more.
    """
    widest = 8 * min(max(2 * queries.shape[1], extra), SLICE)
    step = max(1, TILE // max(widest, min(len(queries), QUERIES)))
    for i in range(0, len(queries), QUERIES):
        for j in range(0, len(database), step):
            yield slice(i, min(i + QUERIES, len(queries))), slice(j, min(j + step, len(database)))


def distance_matrix(queries: Tensor, rows: Tensor) -> Tensor:
    """Return (q, n) int16, the distances of all pairs."""
    return shared_bits(torch.cat([queries, ~queries], dim=1), torch.cat([~rows, rows], dim=1))


def shared_bits(left: Tensor, right: Tensor) -> Tensor:
    """Return (q, n) int16, the number of bits set both in left (q, B) and in right (n, B)."""
    total = torch.zeros((len(left), len(right)), dtype=torch.int16, device=left.device)
    dtype = torch.float16 if left.is_cuda else torch.float32
    for start in range(0, left.shape[1], SLICE):
        a, b = (unpacked_bits(part[:, start : start + SLICE]).to(dtype) for part in (left, right))
        total += (a @ b.T).to(torch.int16)
    return total


def unpacked_bits(codes: Tensor) -> Tensor:
    """Return (n, 8 B) uint8, the bits of codes (n, B) as 0 and 1."""
    places = torch.arange(8, dtype=torch.uint8, device=codes.device)
    return ((codes[:, :, None] >> places) & 1).reshape(len(codes), -1)
