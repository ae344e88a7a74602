"""count_within by products of int8 on the matrix units, the alternative to population counts that gpu.py measures.

With bits as -1 and 1, the distance of two codes of K bits is (K - their product) / 2. Codes take 8 times the memory.
"""

import torch
import triton
import triton.language as tl

QUERIES, ROWS = 128, 256  # shape of a program's tile


@triton.jit
def count(queries, codes, counts, least, n, q, K: tl.constexpr, PART: tl.constexpr, Q: tl.constexpr, N: tl.constexpr):
    """Add to counts (q,) int64 the rows of codes (n, K) int8 whose product with a query (q, K) is at least `least`."""
    n_groups = tl.cdiv(q, Q)
    query_rows = tl.program_id(0) % n_groups * Q + tl.arange(0, Q)
    rows = (tl.program_id(0) // n_groups).to(tl.int64) * N + tl.arange(0, N)
    parts = tl.arange(0, PART)
    left = queries + query_rows[:, None] * K + parts[None, :]
    right = codes + rows[None, :] * K + parts[:, None]
    total = tl.zeros((Q, N), tl.int32)
    for _ in range(0, K, PART):
        a = tl.load(left, mask=query_rows[:, None] < q, other=0)
        b = tl.load(right, mask=rows[None, :] < n, other=0)
        total = tl.dot(a, b, total, out_dtype=tl.int32)
        left += PART
        right += PART
    near = (total >= least) & (rows[None, :] < n)
    tl.atomic_add(counts + query_rows, tl.sum(near.to(tl.int64), 1), mask=query_rows < q, sem="relaxed")


def count_within(queries: torch.Tensor, codes: torch.Tensor, radius: int) -> torch.Tensor:
    """Return (q,) int64 for queries (q, K) and codes (n, K) of -1 and 1 as int8, K a multiple of 32."""
    (n, k), q = codes.shape, len(queries)
    counts = torch.zeros(q, dtype=torch.int64, device=codes.device)
    grid, part = triton.cdiv(q, QUERIES) * triton.cdiv(n, ROWS), min(128, k & -k)
    constants = {"K": k, "PART": part, "Q": QUERIES, "N": ROWS, "num_warps": 8}
    launch = count[grid,]
    launch(queries, codes, counts, k - 2 * radius, n, q, **constants)
    return counts
