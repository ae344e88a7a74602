"""The metrics of Hamming retrieval, as closed forms of an integer histogram.

A histogram h is (2, q, n_bits + 1) int64: h[0] counts all rows, h[1] the relevant ones, by distance from each query.
Rows at one distance are tied: a metric is its expectation over all their orders, each as likely, unless it says
otherwise. Metrics return (q,) float64; `empty` is the value of a query for which the metric is 0 / 0 (NaN, with
np.nanmean, leaves it out). A1 to A7 number the definitions of "MAP" found in published code. Where several metrics of
one histogram are asked for, they take groups(h) as well, and what they have in common is computed once.

In the formulas n and r are the rows and the relevant rows at a distance, N and R (n_before, r_before) those strictly
nearer, l_i is 1 where rank i is relevant and P(i) is the precision of the first i ranks.
"""

from functools import cache

import numpy as np
from scipy.special import expi

from ..mapreduce import Array
from .tie_groups import Histogram, at_least_one, groups, harmonic, hit_precision, ratio

RANKS = 1 << 20  # sums of discounts are looked up to here
STEPS = 32  # terms of a sum that are computed at once, of the queries whose sum goes on


def average_precision(h: Histogram, empty: float = 0.0) -> Array:
    """AP over the whole ranking, (1/R) sum_i l_i P(i): A1, under ties A7 (McSherry & Najork, ECIR 2008)."""
    g = groups(h)
    return ratio(g.hits.sum(axis=1), g.relevant, empty)


def average_precision_at(h: Histogram, k: int, empty: float = 0.0) -> Array:
    """AP of the first k ranks over the most they can hold, (1/min(R, k)) sum_{i<=k} l_i P(i): A3."""
    g = groups(h)
    n_before, r_before, n, r, drawn = g.cut(k)
    whole = np.where(g.n_before + g.n <= k, g.hits, 0).sum(axis=1)
    part = hit_precision(n, r, n_before, r_before, drawn, harmonic(n_before, drawn))
    return ratio(whole + part, np.minimum(g.relevant, k), empty)


def average_precision_at_hits(h: Histogram, k: int, empty: float = 0.0) -> Array:
    """AP of the first k ranks over the hits among them, (1/h_k) sum_{i<=k} l_i P(i): A2.

    `empty` is the value of an order whose first k ranks hold no hit. It rewards finding less: print A1 or A3 beside it.
    """
    g = groups(h)
    n_before, r_before, n, r, drawn = g.cut(k)
    done = np.where(g.n_before + g.n <= k, g.hits, 0).sum(axis=1)
    # Of the group that rank k cuts, `drawn` rows are seen. Their hits are hypergeometric: sum over all likely numbers,
    # by the ratio of one probability to the next, from so far below the mean that the rest is under 1e-16.
    mean = drawn * ratio(r, n)
    spread = 9 * np.sqrt(mean * (1 - ratio(r, n)) * ratio(n - drawn, n - 1)) + 16
    low = np.maximum(np.maximum(0, drawn - (n - r)), np.floor(mean - spread))
    high = np.minimum(np.minimum(r, drawn), np.ceil(mean + spread))
    # Given their number, hit_precision is hits (a + b hits).
    b = ratio(drawn - (n_before + 1) * (sums := harmonic(n_before, drawn)), drawn * np.maximum(drawn - 1, 1))
    a = ratio((r_before + 1) * sums, drawn) - b
    weight, weights, value = np.ones(len(n)), np.zeros(len(n)), np.zeros(len(n))  # weights: of those with a hit
    none = np.where(r_before + low == 0, weight, 0)  # the weight of no hit at all
    all_of = np.stack([low, r, drawn, n - r - drawn, r_before, done, a, b])[:, :, None]
    for start in range(0, int((high - low).max(initial=0)) + 1, STEPS):
        i = np.flatnonzero(start <= high - low)
        low_i, r_i, drawn_i, rest_i, before_i, done_i, a_i, b_i = all_of[:, i]
        hits = low_i + np.arange(start, start + STEPS)
        next_to_this = (r_i - hits) * (drawn_i - hits) / ((hits + 1) * (rest_i + hits + 1))
        likely = np.hstack([weight[i, None], next_to_this]).cumprod(axis=1)
        weight[i], likely = likely[:, -1], likely[:, :-1]
        weights[i] += np.where(before_i + hits > 0, likely, 0).sum(axis=1)
        value[i] += (likely * (done_i + hits * (a_i + b_i * hits)) / np.maximum(before_i + hits, 1)).sum(axis=1)
    return ratio(value, weights, empty) if np.isnan(empty) else (value + empty * none) / (weights + none)


def trapezoid_average_precision(h: Histogram, empty: float = 0.0) -> Array:
    """Area under each query's precision-recall polygon (Oxford buildings; BDNN, Do et al., ECCV 2016): A4."""
    g = groups(h)
    n, r, n_before, r_before = g.n, g.r, g.n_before, g.r_before
    slope = (r - 1) / np.maximum(n - 1, 1)
    # Precision just before a hit, (R + (i-1) slope) / (N + i-1) at place i of its group; 1 before the first rank.
    sums = g.sums + ratio(n, n_before * (n_before + n))  # 1/N + ... + 1/(N + n - 1)
    before = slope * n + (r_before - slope * n_before) * sums
    before = r / np.maximum(n, 1) * np.where(n_before == 0, 1 + slope * (n - 1), before)
    return ratio((g.hits + before).sum(axis=1) / 2, g.relevant, empty)


def average_precision_bounds(h: Histogram, empty: float = 0.0) -> tuple[Array, Array]:
    """(pessimistic, optimistic) AP: the relevant rows last, and first, within each tie."""
    g = groups(h)
    last, first = (
        ratio((g.r + (g.r_before - start) * harmonic(start, g.r)).sum(axis=1), g.relevant, empty)
        for start in (g.n_before + g.n - g.r, g.n_before)
    )
    return last, first


def interpolated_precision_bounds(h: Histogram, points: int = 21, empty: float = 0.0) -> tuple[Array, Array]:
    """(pessimistic, optimistic) mean over evenly spaced recalls of the best precision at that recall or more: A5."""
    g = groups(h)
    found = g.r_before + g.r
    reached = np.floor(ratio((points - 1) * found, g.relevant[:, None])) + 1  # so many of the recalls, at a distance
    first = np.diff(reached, axis=1, prepend=0)  # of which none nearer reaches so many
    bounds = []
    for tied in (g.n, g.r):  # of a tie's hits the last has the highest precision, in either order
        precision = np.where(g.r > 0, found / np.maximum(g.n_before + tied, 1), 0)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        bounds.append(np.where(g.relevant > 0, (best * first).sum(axis=1) / points, empty))
    return bounds[0], bounds[1]


def precision_at(h: Histogram, k: int) -> Array:
    """Share of relevant rows among the first k ranks; ranks beyond the last row hold none."""
    _, r_before, n, r, drawn = groups(h).cut(k)
    return (r_before + drawn * ratio(r, n)) / k


def recall_at(h: Histogram, k: int, empty: float = 0.0) -> Array:
    """Share of the relevant rows that the first k ranks hold."""
    g = groups(h)
    return ratio(precision_at(g, k) * k, g.relevant, empty)


def success_at(h: Histogram, k: int) -> Array:
    """Probability that the first k ranks hold a relevant row; with one relevant row 1-recall@k (Jegou, PAMI 2011)."""
    _, r_before, n, r, drawn = groups(h).cut(k)
    found, none = np.ones(len(n)), r_before == 0
    found[none] -= missed(n[none], r[none], drawn[none])
    return found


def reciprocal_rank(h: Histogram) -> Array:
    """1 / rank of the first relevant row, to 1e-11; 0 where there is none."""
    g = groups(h)
    at = (g.r > 0).argmax(axis=1)[:, None]
    n, r, n_before = (np.take_along_axis(part, at, axis=1)[:, 0] for part in (g.n, g.r, g.n_before))
    # 1/(N+1) - sum_{i=1}^{n-r} none_i (1/(N+i) - 1/(N+i+1)), none_i the chance of no hit among the first i of the tie.
    # Where the tie is long the terms far out change so slowly that the sum is an integral, cut at powers of two.
    value, none, far = 1 / (n_before + 1), np.ones(len(n)), 4096
    for start in range(0, far, STEPS):
        i = np.flatnonzero((start < n - r) & (none > 1e-18))
        if not len(i):
            break
        places = np.arange(start + 1, start + STEPS + 1)
        rest, rank = n[i, None] - places + 1, n_before[i, None] + places
        chances = none[i, None] * np.maximum(1 - r[i, None] / np.maximum(rest, 1), 0).cumprod(axis=1)
        value[i] -= (chances / (rank * (rank + 1))).sum(axis=1)
        none[i] = chances[:, -1]
    nodes, weights = np.polynomial.legendre.leggauss(16)
    start, end = far + 0.5, n - r + 0.5
    while (start < end).any():
        i = np.flatnonzero(start < end)
        half = (np.minimum(end[i], 2 * start) - start) / 2
        x = start + half * (nodes[:, None] + 1)
        value[i] -= half * (weights @ (np.exp(log_none(n[i], r[i], x)) / ((n_before[i] + x) * (n_before[i] + x + 1))))
        start *= 2
    return np.where(r > 0, value, 0.0)


def log_none(n: Array, r: Array, x: Array) -> Array:
    """log of (n - x)! (n - r)! / (n! (n - x - r)!): no hit among the first x of n rows, r of them relevant.

    By Stirling's series, the logarithms taken together so that large ones do not cancel.
    """

    def rest(z: Array) -> Array:
        return 1 / (12 * z) - 1 / (360 * z**3)

    a, b = n + 1, n + 1 - x
    series = rest(a - r) - rest(b - r) - rest(a) + rest(b)
    return (a - 0.5) * np.log1p(-r / a) - (b - 0.5) * np.log1p(-r / b) + r * np.log1p(-x / (a - r)) + series


def precision_within(h: Histogram, radius: int, empty: float = 0.0) -> Array:
    """Share of relevant rows among those within a Hamming radius."""
    n, r = groups(h).h[:, :, : not_negative(radius) + 1].sum(axis=2)
    return ratio(r, n, empty)


def recall_within(h: Histogram, radius: int, empty: float = 0.0) -> Array:
    """Share of the relevant rows that lie within a Hamming radius."""
    g = groups(h)
    return ratio(g.r[:, : not_negative(radius) + 1].sum(axis=1), g.relevant, empty)


def precision_recall_curve(h: Histogram, empty: float = 0.0) -> tuple[Array, Array]:
    """(precision, recall), both (q, n_bits + 1): of the rows within radius 0, 1, ..., n_bits."""
    g = groups(h)
    n, r = g.n_before + g.n, g.r_before + g.r
    return ratio(r, n, empty), ratio(r, r[:, -1:], empty)


def area_under_pooled_curve(h: Histogram) -> float:
    """Area by trapezoids under the pooled precision and recall within radius 0 to n_bits - 1: A6 (HABIR)."""
    n, r = groups(h).h.sum(axis=1).cumsum(axis=1)
    return float(np.trapezoid(ratio(r, n)[:-1], ratio(r, r[-1:])[:-1]))


def ndcg(graded: Array, k: int | None = None, empty: float = 0.0) -> Array:
    """DCG of the first k ranks over the best possible, gain 2^grade - 1 (Jarvelin & Kekalainen, TOIS 2002).

    graded: (n_grades, q, n_bits + 1) int64, from hamming.graded_histogram.
    """
    last = graded.sum() if k is None else at_least_one(k)
    gain = 2.0 ** np.arange(len(graded)) - 1
    n = graded.sum(axis=0)
    discounts = np.diff(discount(np.minimum(n.cumsum(axis=1), last)), axis=1, prepend=0)
    found = (ratio(np.tensordot(gain, graded, 1), n) * discounts).sum(axis=1)
    best = discount(np.minimum(graded.sum(axis=2)[::-1].cumsum(axis=0), last))  # ranks filled by the best grades
    return ratio(found, gain[::-1] @ np.diff(best, axis=0, prepend=0), empty)


def discount(rank: Array) -> Array:
    """1/log2(2) + ... + 1/log2(rank + 1), to 1e-12 relative; rank is int64."""

    def integral(end: Array) -> Array:  # of 1 / log x, with the first correction of the midpoint rule
        return expi(np.log(end)) + 1 / (24 * end * np.log(end) ** 2)

    sums = discounts().take(rank, mode="clip")
    far = rank > RANKS
    if far.any():
        sums[far] += np.log(2) * (integral(rank[far] + 1.5) - integral(RANKS + 1.5))
    return sums


@cache
def discounts() -> Array:
    """(RANKS + 1,) float64: the sums to each rank. 8 MiB, made when first asked for and always the same."""
    return np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2.0, RANKS + 2)))])


def missed(n: Array, r: Array, drawn: Array) -> Array:
    """Probability that of n rows, r of them relevant, the first `drawn` hold no relevant one (hypergeometric)."""
    few, many = np.minimum(r, drawn), np.maximum(r, drawn)
    chance = np.ones(len(n))
    for i in range(int(few.max(initial=0))):
        left = i < few
        chance *= np.where(left, np.maximum(1 - many / np.maximum(n - i, 1), 0), 1)
        if not (chance[left] > 1e-18).any():
            break
    return chance


def not_negative(radius: int) -> int:
    if radius < 0:
        raise ValueError(f"expected a radius >= 0, found {radius}")
    return radius
