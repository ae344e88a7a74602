"""The loops of hashing.neighbours.exact on a torch device, with bitwise equal results.

As on the CPU, a float32 product selects all rows that can be among the nearest, given its rounding errors. Their
distances are summed in float64 in the order of exact_kernels.measure.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..device import reproducible
from ..mapreduce import Array
from .exact_kernels import EUCLIDEAN, INNER_PRODUCT, LANES
from .rounding import norm_bounds

QUERIES, ROWS = 2048, 32768  # shape of one matrix product, 256 MiB
PAIRS = 1 << 20  # pairs whose distance is computed in float64 at a time
CANDIDATES = 1 << 22  # candidates to collect before they are merged into the state
FEW = 4  # up to FEW * k candidates for each query, a search for smaller limits does not pay off


def add(
    state: tuple[Array, Array],
    own: Array,
    queries: Array,
    ids: Array,
    x: Array,
    units: tuple[Array, Array] | None,
    metric: int,
    device: str,
) -> None:
    """Add rows x (n, d) float32 to the state of NearestNeighbours, in place.

    own (q,) are the ids that the queries (q, d) leave out. For cosine, `units` holds the queries and x as unit vectors.
    """
    with reproducible(), torch.inference_mode():
        best_ids, best, own_ids, exact, row_ids, rows = (
            torch.tensor(part, device=device) for part in (*state, own, queries, ids, x)
        )
        left, right = (torch.tensor(part, device=device) for part in units) if units else (exact, rows)
        if metric == EUCLIDEAN:
            centre = exact.mean(dim=0)  # subtracted because rounding errors grow with the norms
            left, right = left - centre, right - centre
        pending: list[tuple[Tensor, ...]] = []
        for query_rows, found in candidates(best[:, -1], own_ids, left, row_ids, right, best.shape[1], metric):
            distances = measure(exact, rows, query_rows, found, metric)
            closer = distances <= best[query_rows, -1]
            pending.append((query_rows[closer], row_ids[found[closer]], distances[closer]))
            if sum(len(part) for part, _, _ in pending) > CANDIDATES:
                best_ids, best = merge(best_ids, best, pending)
                pending = []
        best_ids, best = merge(best_ids, best, pending)
        state[0][:], state[1][:] = best_ids.cpu().numpy(), best.cpu().numpy()


def candidates(
    farthest: Tensor, own: Tensor, queries: Tensor, ids: Tensor, x: Tensor, k: int, metric: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs (rows of queries, rows of x) that cover each query's k nearest rows within `farthest` (q,)."""
    (query_low, query_high), (low, high) = (bounds(part, metric != INNER_PRODUCT) for part in (queries, x))
    slack, gap = query_high - query_low, high - low
    limits = (farthest - query_low).float()  # of the sums of -2 qx and the lower bound of |x|^2
    for i in range(0, len(queries), QUERIES):
        some = slice(i, i + QUERIES)
        for j in range(0, len(x), ROWS):
            part = slice(j, j + ROWS)
            sums = (-2 * queries[some]) @ x[part].T + low[part]
            excluded = own[some, None] == ids[part]
            near = ~((sums > limits[some, None]) | excluded)  # NaN, from overflow, is near
            if len(ids[part]) >= k and near.sum() > FEW * k * len(sums):
                least, nearest = sums.masked_fill(excluded, torch.inf).topk(k, largest=False)
                bound = least[:, -1] + (gap[part][nearest].amax(dim=1) + slack[some])
                limits[some] = torch.where(bound < limits[some], bound, limits[some])
                near = ~((sums > limits[some, None]) | excluded)
            query_rows, rows = near.nonzero(as_tuple=True)
            yield query_rows + i, rows + j


def bounds(x: Tensor, with_norms: bool) -> tuple[Tensor, Tensor]:
    """Return the bounds (n,) float32 of norm_bounds for vectors (n, d)."""
    norms = (x * x).sum(dim=1).cpu().numpy()
    low, high = (torch.tensor(bound, device=x.device) for bound in norm_bounds(norms, x.shape[1], with_norms))
    return low, high


def measure(queries: Tensor, x: Tensor, query_rows: Tensor, rows: Tensor, metric: int) -> Tensor:
    """Return (m,) float64, the values of exact_kernels.measure for queries[query_rows[i]] and x[rows[i]].

    numpy computes the square roots, because torch does not always round them to nearest on the CPU.
    """
    out = torch.empty(len(rows), dtype=torch.float64, device=x.device)
    for start in range(0, len(rows), PAIRS):
        part = slice(start, start + PAIRS)
        a, b = queries[query_rows[part]], x[rows[part]]
        if metric == EUCLIDEAN:
            out[part] = sum_of_terms(squared_difference, a, b)
        elif metric == INNER_PRODUCT:
            out[part] = -2 * sum_of_terms(torch.mul, a, b)
        else:
            norms = np.sqrt((sum_of_terms(torch.mul, a, a) * sum_of_terms(torch.mul, b, b)).cpu().numpy())
            out[part] = 2 * (1 - sum_of_terms(torch.mul, a, b) / torch.tensor(norms, device=x.device))
    return out


def sum_of_terms(term: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Return (m,) float64, the sums of term(a, b) over the columns of a and b (m, d), in the order of exact_kernels.

    Terms and sums are separate operations, so no device can fuse them into one rounding.
    """
    whole = a.shape[1] // LANES * LANES
    lanes = torch.zeros((len(a), LANES), dtype=torch.float64, device=a.device)
    for j in range(0, whole, LANES):
        lanes += term(a[:, j : j + LANES].double(), b[:, j : j + LANES].double())
    total = torch.zeros(len(a), dtype=torch.float64, device=a.device)
    for column in (*lanes.unbind(dim=1), *term(a[:, whole:].double(), b[:, whole:].double()).unbind(dim=1)):
        total += column
    return total


def squared_difference(a: Tensor, b: Tensor) -> Tensor:
    """Return (a - b)^2."""
    return (a - b).square()


def merge(best_ids: Tensor, best: Tensor, pending: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
    """Return the ids and distances (q, k) of the nearest rows among the best so far and the pending ones, sorted.

    `pending` holds tuples (positions of queries, ids, distances).
    """
    q, k = best.shape
    places = torch.arange(k, device=best.device)
    held = torch.arange(q, device=best.device).repeat_interleave(k), best_ids.flatten(), best.flatten()
    query_rows, ids, distances = (torch.cat(column) for column in zip(held, *pending, strict=True))
    order = ids.argsort()
    for key in (distances, query_rows):  # by query, then distance, then id
        order = order[key[order].argsort(stable=True)]
    sizes = torch.bincount(query_rows, minlength=q)
    chosen = order[(sizes.cumsum(0) - sizes)[:, None] + places]
    return ids[chosen], distances[chosen]
