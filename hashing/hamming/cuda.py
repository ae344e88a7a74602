"""The functions of hashing.hamming.scan on CUDA tensors, by Triton kernels, with the same results.

Parameters and results are documented there. Rows are visited in blocks. Besides the results, memory holds a second copy
of the codes, word by word, and a few numbers for each pair of a block and a query, at most ENTRIES pairs at a time.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import tensors, triton_kernels
from .checks import MAX_BITS, check_codes, check_histogram, check_k, check_radius

GROUP = 64  # queries that a program compares with its rows
HELD = 4096  # words in the registers of a program, 128 for each thread
MOST_ROWS = 512  # maximum number of rows of a program
MOST_BINS = 256  # bins that a program counts at a time
ENTRIES = 1 << 24  # blocks and bins for the queries of a launch


def histogram(
    queries: Tensor, database: Tensor, n_bits: int, query_labels: Tensor | None = None, labels: Tensor | None = None
) -> Tensor:
    """Return (2, q, n_bits + 1) int64, the rows and the relevant rows at each distance."""
    return tensors.relevant_histogram(graded_histogram, queries, database, n_bits, query_labels, labels)


def graded_histogram(
    queries: Tensor, database: Tensor, n_bits: int, query_labels: Tensor, labels: Tensor, n_grades: int
) -> Tensor:
    """Return (n_grades, q, n_bits + 1) int64, the rows of each grade at each distance."""
    check_histogram(queries, database, n_bits, query_labels, labels, n_grades)
    query_labels, labels = (as_int32(part) for part in (query_labels, labels))
    used = query_labels.any(dim=0)  # the groups of 32 labels that any query has
    query_labels, labels = query_labels[:, used].contiguous(), transposed(labels[:, used])
    counts = _histogram(words(queries), planes(database), n_bits, query_labels, labels, n_grades)
    return counts.reshape(len(queries), n_grades, n_bits + 1).transpose(0, 1).contiguous()


def pair_distances(queries: Tensor, database: Tensor, query_rows: Tensor, rows: Tensor) -> Tensor:
    """Return (m,) int32, the distance of queries[query_rows[i]] from database[rows[i]] for each i of m."""
    check_codes(queries, database)
    query_rows, rows = check_rows(query_rows, len(queries)), check_rows(rows, len(database))
    out = torch.empty(len(rows), dtype=torch.int32, device=queries.device)
    if len(rows):
        left, right, grid = words(queries), words(database), (-(-len(rows) // MOST_ROWS),)
        with torch.cuda.device_of(out):  # type: ignore[no-untyped-call]  # torch leaves it untyped
            triton_kernels.pairs[grid](left, right, query_rows, rows, out, len(rows), left.shape[1], BLOCK=MOST_ROWS)
    return out


def count_within(queries: Tensor, database: Tensor, radius: int) -> Tensor:
    """Return (q,) int64, the number of rows within a radius of each query."""
    check_codes(queries, database)
    check_radius(radius)
    codes = planes(database)
    return torch.cat([_count(part, codes, limits(part, radius))[0].sum(1) for part in parts(words(queries), codes)])


def within(queries: Tensor, database: Tensor, radius: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return offsets (q + 1,) int64, positions (m,) int64 and distances (m,) int32 of the rows within a radius."""
    check_codes(queries, database)
    check_radius(radius)
    codes = planes(database)
    found = [_collect(part, codes, limits(part, radius)) for part in parts(words(queries), codes)]
    sizes, positions, distances = (torch.cat(column) for column in zip(*found, strict=True))
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]), positions, distances


def topk(queries: Tensor, database: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return distances (q, k) int32 and positions (q, k) int64 of the nearest rows, by (distance, position)."""
    check_codes(queries, database)
    check_k(k)
    k, codes, found = min(k, len(database)), planes(database), []
    for part in parts(words(queries), codes):
        up_to = _histogram(part, codes, 8 * queries.shape[1]).cumsum(1)
        radii = (up_to < k).sum(1, keepdim=True)  # the smallest radii that contain k rows
        nearer = up_to.gather(1, (radii - 1).clamp(min=0)).where(radii > 0, 0)
        _, positions, distances = _collect(part, codes, radii.int(), k - nearer)
        found.append((distances.reshape(len(part), k), positions.reshape(len(part), k)))
    distances, positions = (torch.cat(column) for column in zip(*found, strict=True))
    distances, order = distances.sort(dim=1, stable=True)
    return distances, positions.gather(1, order)


def _histogram(
    queries: Tensor, codes: Tensor, n_bits: int, query_labels: Tensor | None = None, labels: Tensor | None = None,
    n_grades: int = 1,
) -> Tensor:  # fmt: skip
    """Return (q, n_grades * (n_bits + 1)) int64, given words of queries and planes of codes and labels."""
    if query_labels is None or labels is None:
        query_labels, labels = queries[:, :0], codes[:0]
    n_cells = n_grades * (n_bits + 1)
    counts = torch.zeros((len(queries), n_cells), dtype=torch.int64, device=codes.device)
    bins = max(32, min(1 << (n_cells - 1).bit_length(), MOST_BINS))
    for part, part_labels, out in zip(*(parts(x, codes) for x in (queries, query_labels, counts)), strict=True):
        launch(
            triton_kernels.histogram, codes, part, labels, part_labels, out, n_bits + 1, n_grades, len(labels),
            BINS=bins, ONCE=bins >= n_cells,
        )  # fmt: skip
    return counts


def _count(queries: Tensor, codes: Tensor, radii: Tensor, ties: bool = False) -> tuple[Tensor, Tensor]:
    """Return (q, blocks) int32: in each block, the rows nearer than a query's radius, and with `ties` those at it."""
    shape = len(queries), n_blocks(codes)
    nearer, tied = (torch.zeros(shape, dtype=torch.int32, device=codes.device) for _ in range(2))
    launch(triton_kernels.count, codes, queries, radii, nearer, tied, TIES=ties)
    return nearer, tied


def _collect(
    queries: Tensor, codes: Tensor, radii: Tensor, missing: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the numbers (q,), positions (m,) and distances (m,) of the rows nearer than each query's radius.

    With `missing` (q, 1), this number of rows at the radius is added, in order of position.
    """
    chosen, tied = _count(queries, codes, radii, ties=missing is not None)
    if missing is not None:
        tied = (missing - tied.cumsum(1) + tied).clamp(min=0).minimum(tied).int()
        chosen += tied
    ends = chosen.flatten().cumsum(0)
    n_found = int(ends[-1]) if len(ends) else 0
    positions, distances = (
        torch.empty(n_found, dtype=dtype, device=codes.device) for dtype in (torch.int64, torch.int32)
    )
    launch(triton_kernels.collect, codes, queries, radii, chosen, tied, ends - chosen.flatten(), positions, distances)
    return chosen.sum(1), positions, distances


def launch(kernel: Any, codes: Tensor, queries: Tensor, *arguments: Any, **constants: Any) -> None:
    """Run one program for each block of codes and group of queries."""
    n, n_programs = codes.shape[1], n_blocks(codes) * -(-len(queries) // GROUP)
    if n_programs:
        with torch.cuda.device_of(codes):  # type: ignore[no-untyped-call]  # torch leaves it untyped
            kernel[(n_programs,)](
                codes, queries, stride(n), n, len(queries), *arguments, **constants,
                W=len(codes), BLOCK=block_rows(codes), GROUP=GROUP, num_warps=1,
            )  # fmt: skip


def parts(rows: Tensor, codes: Tensor) -> Sequence[Tensor]:
    """Split rows, one for each query, into parts with at most ENTRIES blocks and bins each; at least one part."""
    return torch.split(rows, max(1, ENTRIES // (n_blocks(codes) + 32 * len(codes))))


def n_blocks(codes: Tensor) -> int:
    """Return the number of blocks of planes (W, n)."""
    return -(-codes.shape[1] // block_rows(codes))


def block_rows(codes: Tensor) -> int:
    """Return the number of rows in a block: a power of two, with which a program holds at most HELD words."""
    return min(MOST_ROWS, HELD >> (len(codes) - 1).bit_length())


def limits(queries: Tensor, radius: int) -> Tensor:
    """Return (q,) int32, the smallest distance outside a radius."""
    return torch.full((len(queries),), min(radius, MAX_BITS) + 1, dtype=torch.int32, device=queries.device)


def words(codes: Tensor) -> Tensor:
    """Return codes (n, B) uint8 as words (n, W) int32, padded with zeros."""
    return as_int32(torch.nn.functional.pad(codes, (0, -codes.shape[1] % 4)))


def as_int32(x: Tensor) -> Tensor:
    """Return the bytes of x (n, w) as int32, copied if they are not contiguous and aligned."""
    if x.stride(1) != 1 or not x.is_contiguous() or x.data_ptr() % 4:
        x = x.clone(memory_format=torch.contiguous_format)
    return x.view(torch.int32)


def planes(codes: Tensor) -> Tensor:
    """Return codes (n, B) uint8 as planes (W, n) int32."""
    return transposed(words(codes))


def transposed(words: Tensor) -> Tensor:
    """Return words (n, W) as planes (W, n), aligned and `stride` words apart in memory."""
    n = len(words)
    return torch.nn.functional.pad(words, (0, 0, 0, stride(n) - n)).T.contiguous()[:, :n]


def stride(n: int) -> int:
    """Return n rounded up to a multiple of 16, as Triton specializes kernels for such strides."""
    return n + -n % 16


def check_rows(rows: Tensor, n: int) -> Tensor:
    """Return positions (m,) as int64, negative ones counted from the end. Raise IndexError if outside of n rows."""
    rows = rows.long()
    if ((rows < -n) | (rows >= n)).any():
        raise IndexError(f"expected positions from {-n} to {n - 1}, found {rows.min()} to {rows.max()}")
    return torch.where(rows < 0, rows + n, rows)
