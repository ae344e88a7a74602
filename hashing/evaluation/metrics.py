"""The metrics of Hamming retrieval, as closed forms of an integer histogram.

A histogram h is (2, q, n_bits + 1) int64: h[0] counts all rows, h[1] the relevant ones, by distance from each query.
Rows at equal distance are tied. Unless stated otherwise, a metric is its expectation over all orders of the tied rows,
each equally likely. Each metric returns (q,) float64, 0 where it would be 0 / 0, and raises ValueError for k < 1 or a
negative radius. To compute several metrics of one histogram, pass tie_groups.groups(h) instead of h: shared sums are
then computed once.

In the formulas, l_i is 1 if rank i is relevant, else 0; P(i) is the precision of the first i ranks, R the number of
relevant rows, and h_k the number of hits among the first k ranks. n and r are the rows and the relevant rows of one
tie, n_before and r_before those at smaller distances. A1 to A7 are the definitions of "MAP" in published code, listed
in docs/evaluation.md.
"""

import numpy as np

from ..hamming.checks import check_k, check_radius
from ..mapreduce import Array
from .rank_sums import discount_sum, harmonic, log_no_hit_probability, no_hit_probability, ratio
from .tie_groups import Histogram, groups, hit_precision

STEPS = 32  # terms of a sum computed at once, for the queries whose sums are not complete yet


def average_precision(h: Histogram) -> Array:
    """Return the average precision of the whole ranking, (1/R) sum_i l_i P(i): A1, and A7 under ties.

    Source: McSherry & Najork, ECIR 2008; He, Cakir, Bargal & Sclaroff, "Hashing as Tie-Aware Learning to Rank", CVPR
    2018.

    >>> h = np.array([[[2, 1]], [[1, 1]]])  # at distance 0 two rows, one of them relevant; at distance 1 a relevant row
    >>> average_precision(h)  # the mean of (1 + 2/3) / 2 and (1/2 + 2/3) / 2
    array([0.70833333])
    """
    g = groups(h)
    return ratio(g.hits.sum(axis=1), g.relevant)


def average_precision_at(h: Histogram, k: int) -> Array:
    """Return the average precision of the first k ranks, divided by the largest possible number of hits: A3.

    (1 / min(R, k)) sum_{i<=k} l_i P(i)
    """
    g = groups(h)
    n_before, r_before, n, r, seen = g.cut(k)
    whole = np.where(g.n_before + g.n <= k, g.hits, 0).sum(axis=1)
    part = hit_precision(n, r, n_before, r_before, seen, harmonic(n_before, seen))
    return ratio(whole + part, np.minimum(g.relevant, k))


def average_precision_at_hits(h: Histogram, k: int, empty: float = 0.0) -> Array:
    """Return the average precision of the first k ranks, divided by the number of hits among them: A2.

    (1 / h_k) sum_{i<=k} l_i P(i); `empty` is the value of an order with h_k = 0, and NaN leaves such orders out. The
    published code of HashNet and others uses this definition. It can reward finding fewer hits, so report A1 or A3 too.
    """
    # Derivation: docs/evaluation.md, "Average precision over the hits"
    g = groups(h)
    n_before, r_before, n, r, seen = g.cut(k)
    done = np.where(g.n_before + g.n <= k, g.hits, 0).sum(axis=1)
    # The number of hits among the `seen` rows of the cut tie is hypergeometric. Sum over its likely values, computing
    # each probability from the previous one. All other values together have a probability below 1e-16.
    mean = seen * ratio(r, n)
    spread = 9 * np.sqrt(mean * (1 - ratio(r, n)) * ratio(n - seen, n - 1)) + 16
    low = np.maximum(np.maximum(0, seen - (n - r)), np.floor(mean - spread))
    high = np.minimum(np.minimum(r, seen), np.ceil(mean + spread))
    # Given the number of hits, hit_precision is hits (a + b hits).
    b = ratio(seen - (n_before + 1) * (sums := harmonic(n_before, seen)), seen * np.maximum(seen - 1, 1))
    a = ratio((r_before + 1) * sums, seen) - b
    # Probabilities are relative to that of `low`; `weights` sums those of at least one hit among the first k ranks.
    weight, weights, value = np.ones(len(n)), np.zeros(len(n)), np.zeros(len(n))
    none = np.where(r_before + low == 0, weight, 0)  # the probability of no hit at all
    columns = np.stack([low, r, seen, n - r - seen, r_before, done, a, b])[:, :, None]
    for start in range(0, int((high - low).max(initial=0)) + 1, STEPS):
        i = np.flatnonzero(start <= high - low)
        low_i, r_i, seen_i, rest_i, before_i, done_i, a_i, b_i = columns[:, i]
        hits = low_i + np.arange(start, start + STEPS)
        next_to_this = (r_i - hits) * (seen_i - hits) / ((hits + 1) * (rest_i + hits + 1))
        likely = np.hstack([weight[i, None], next_to_this]).cumprod(axis=1)
        weight[i], likely = likely[:, -1], likely[:, :-1]
        weights[i] += np.where(before_i + hits > 0, likely, 0).sum(axis=1)
        value[i] += (likely * (done_i + hits * (a_i + b_i * hits)) / np.maximum(before_i + hits, 1)).sum(axis=1)
    return ratio(value, weights, empty) if np.isnan(empty) else (value + empty * none) / (weights + none)


def trapezoid_average_precision(h: Histogram) -> Array:
    """Return the area under each query's precision-recall polygon, by trapezoids: A4.

    (1/R) sum_i l_i (P(i - 1) + P(i)) / 2 with P(0) = 1

    Source: the evaluation code of Philbin et al., "Object Retrieval with Large Vocabularies and Fast Spatial Matching",
    CVPR 2007 (Oxford buildings); BDNN, Do et al., ECCV 2016.
    """
    # Derivation: docs/evaluation.md, "Trapezoids"
    g = groups(h)
    n, r, n_before, r_before = g.n, g.r, g.n_before, g.r_before
    slope = (r - 1) / np.maximum(n - 1, 1)
    # The precision just before a hit at place i of its tie is (r_before + (i - 1) slope) / (n_before + i - 1), and 1
    # before the first rank.
    sums = g.sums + ratio(n, n_before * (n_before + n))  # 1/n_before + ... + 1/(n_before + n - 1)
    before = slope * n + (r_before - slope * n_before) * sums
    before = r / np.maximum(n, 1) * np.where(n_before == 0, 1 + slope * (n - 1), before)
    return ratio((g.hits + before).sum(axis=1) / 2, g.relevant)


def average_precision_bounds(h: Histogram) -> tuple[Array, Array]:
    """Return the lowest and the highest A1 of any order: with the relevant rows of each tie last, and first."""
    # Derivation: docs/evaluation.md, "Bounds of average precision"
    g = groups(h)
    last, first = (
        ratio((g.r + (g.r_before - start) * harmonic(start, g.r)).sum(axis=1), g.relevant)
        for start in (g.n_before + g.n - g.r, g.n_before)
    )
    return last, first


def interpolated_precision_bounds(h: Histogram, points: int = 21) -> tuple[Array, Array]:
    """Return the lowest and the highest interpolated average precision of any order: A5.

    The mean, over `points` evenly spaced recall levels from 0 to 1, of the best precision at that recall or higher.

    Source: SuBiC, Jain et al., ICCV 2017, with 21 levels.
    """
    g = groups(h)
    hits = g.r_before + g.r
    levels = np.floor(ratio((points - 1) * hits, g.relevant[:, None])) + 1  # recall levels reached within a distance
    new_levels = np.diff(levels, axis=1, prepend=0)  # of these, the levels not reached at a smaller distance
    bounds = []
    for tied in (g.n, g.r):  # in either order the last hit of a tie has the highest precision
        precision = np.where(g.r > 0, hits / np.maximum(g.n_before + tied, 1), 0)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        bounds.append(np.where(g.relevant > 0, (best * new_levels).sum(axis=1) / points, 0))
    return bounds[0], bounds[1]


def precision_at(h: Histogram, k: int) -> Array:
    """Return the precision of the first k ranks, (1/k) sum_{i<=k} l_i; ranks beyond the last row are not relevant."""
    _, r_before, n, r, seen = groups(h).cut(k)
    precision: Array = (r_before + seen * ratio(r, n)) / k
    return precision


def recall_at(h: Histogram, k: int) -> Array:
    """Return the recall of the first k ranks, (1/R) sum_{i<=k} l_i."""
    g = groups(h)
    return ratio(precision_at(g, k) * k, g.relevant)


def success_at(h: Histogram, k: int) -> Array:
    """Return the probability that the first k ranks hold a relevant row, h_k > 0.

    With one relevant row it is the 1-recall@k of Jegou, Douze & Schmid, "Product Quantization for Nearest Neighbor
    Search", PAMI 2011.
    """
    _, r_before, n, r, seen = groups(h).cut(k)
    probability, none = np.ones(len(n)), r_before == 0
    probability[none] -= no_hit_probability(n[none], r[none], seen[none])
    return probability


def reciprocal_rank(h: Histogram) -> Array:
    """Return 1 / (rank of the first relevant row), with an absolute error of 1e-11 at most; 0 where there is none."""
    # Derivation: docs/evaluation.md, "Reciprocal rank"
    g = groups(h)
    at = (g.r > 0).argmax(axis=1)[:, None]
    n, r, n_before = (np.take_along_axis(part, at, axis=1)[:, 0] for part in (g.n, g.r, g.n_before))
    # With N = n_before: 1/(N+1) - sum_{i=1}^{n-r} none_i (1/(N+i) - 1/(N+i+1)), where none_i is the probability of no
    # hit among the first i rows of the tie. In a long tie, late terms change so slowly that their sum is computed as
    # an integral, split at powers of two.
    value, none, far = 1 / (n_before + 1), np.ones(len(n)), 4096
    for first in range(0, far, STEPS):
        i = np.flatnonzero((first < n - r) & (none > 1e-18))
        if not len(i):
            break
        places = np.arange(first + 1, first + STEPS + 1)
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
        terms = np.exp(log_no_hit_probability(n[i], r[i], x)) / ((n_before[i] + x) * (n_before[i] + x + 1))
        value[i] -= half * (weights @ terms)
        start *= 2
    return np.where(r > 0, value, 0.0)


def precision_within(h: Histogram, radius: int) -> Array:
    """Return the share of relevant rows among the rows within a Hamming radius, the radius included."""
    check_radius(radius)
    n, r = groups(h).h[:, :, : radius + 1].sum(axis=2)
    return ratio(r, n)


def recall_within(h: Histogram, radius: int) -> Array:
    """Return the share of the relevant rows that are within a Hamming radius, the radius included."""
    check_radius(radius)
    g = groups(h)
    return ratio(g.r[:, : radius + 1].sum(axis=1), g.relevant)


def precision_recall_curve(h: Histogram) -> tuple[Array, Array]:
    """Return precision and recall, both (q, n_bits + 1), of the rows within radius 0, 1, ..., n_bits."""
    g = groups(h)
    n, r = g.n_before + g.n, g.r_before + g.r
    return ratio(r, n), ratio(r, r[:, -1:])


def area_under_pooled_curve(h: Histogram) -> float:
    """Return the area, by trapezoids, under the precision-recall curve of all queries pooled: A6.

    The points are those of radius 0 to n_bits - 1, as in the published code of HABIR, so recall need not reach 1.
    """
    n, r = groups(h).h.sum(axis=1).cumsum(axis=1)
    return float(np.trapezoid(ratio(r, n)[:-1], ratio(r, r[-1:])[:-1]))


def ndcg(graded: Array, k: int | None = None) -> Array:
    """Return the discounted cumulative gain of the first k ranks, divided by the highest possible one.

    DCG = sum_{i<=k} (2^grade_i - 1) / log2(i + 1)

    Source: Jarvelin & Kekalainen, "Cumulated Gain-Based Evaluation of IR Techniques", TOIS 2002; the gain 2^grade - 1
    is that of Burges et al., "Learning to Rank Using Gradient Descent", ICML 2005.

    graded (n_grades, q, n_bits + 1) int64 counts rows by grade and distance, as scan.graded_histogram does. Without k,
    all ranks count.
    """
    # Derivation: docs/evaluation.md, "Discounts of NDCG"
    if k is not None:
        check_k(k)
    last = graded.sum() if k is None else k
    gain = 2.0 ** np.arange(len(graded)) - 1
    n = graded.sum(axis=0)
    discounts = np.diff(discount_sum(np.minimum(n.cumsum(axis=1), last)), axis=1, prepend=0)
    dcg = (ratio(np.tensordot(gain, graded, 1), n) * discounts).sum(axis=1)
    best = discount_sum(np.minimum(graded.sum(axis=2)[::-1].cumsum(axis=0), last))  # best grades on the first ranks
    return ratio(dcg, gain[::-1] @ np.diff(best, axis=0, prepend=0))
