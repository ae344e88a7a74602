"""Metrics against the enumeration of all orders of tied rows, against scikit-learn, and for long ties."""

import itertools
import math
from fractions import Fraction
from functools import partial

import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from hashing.evaluation import metrics
from hashing.evaluation.rank_sums import DISCOUNT_RANKS, discount_sum, harmonic
from hashing.evaluation.tie_groups import hit_precision

# A tie is a list of the grades of its rows; a ranking is a list of ties, the nearest first.
ties = st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=4)


def orders(ranking):
    """Yield every order of the rows, as a list of grades; orders of equal grades are repeated."""
    for parts in itertools.product(*(itertools.permutations(tie) for tie in ranking)):
        yield [grade for part in parts for grade in part]


def graded(ranking):
    return np.array([[[tie.count(grade) for tie in ranking]] for grade in range(4)])


def binary(ranking):
    counts = graded(ranking)
    return np.stack([counts.sum(axis=0), counts[1:].sum(axis=0)])


def precision(hits, rank):
    return sum(hits[:rank]) / rank


def ap(hits, normaliser):
    total = sum(precision(hits, rank) for rank, hit in enumerate(hits, 1) if hit)
    return total / normaliser if normaliser else 0.0


def trapezoid(hits):
    area, found = 0.0, 0
    for rank, hit in enumerate(hits):
        if hit:
            area += ((found / rank if rank else 1.0) + (found + 1) / (rank + 1)) / 2
            found += 1
    return area / found if found else 0.0


def dcg(grades, k):
    return sum((2**grade - 1) / math.log2(rank + 1) for rank, grade in enumerate(grades[:k], 1))


def interpolated(hits, points):
    relevant = sum(hits)
    best = [
        max(
            precision(hits, rank) for rank in range(1, len(hits) + 1) if sum(hits[:rank]) * (points - 1) >= p * relevant
        )
        for p in range(points)
    ]
    return sum(best) / points


@given(ties, st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_metrics_are_expectations_over_every_order(ranking, k):
    n_rows = sum(map(len, ranking))
    assume(0 < n_rows <= 8 and math.prod(math.factorial(len(tie)) for tie in ranking) <= 3000)
    every = [(grades, [int(grade > 0) for grade in grades]) for grades in orders(ranking)]
    h, relevant = binary(ranking), sum(every[0][1])
    ideal = dcg(sorted(every[0][0], reverse=True), k)

    def expect(actual, value):
        assert actual.shape == (1,)
        assert actual[0] == pytest.approx(np.mean([value(*order) for order in every]), rel=1e-12, abs=1e-14)

    expect(metrics.average_precision(h), lambda _, hits: ap(hits, relevant))
    expect(metrics.average_precision_at(h, k), lambda _, hits: ap(hits[:k], min(relevant, k)))
    expect(metrics.average_precision_at_hits(h, k), lambda _, hits: ap(hits[:k], sum(hits[:k])))
    expect(metrics.trapezoid_average_precision(h), lambda _, hits: trapezoid(hits))
    expect(metrics.precision_at(h, k), lambda _, hits: sum(hits[:k]) / k)
    expect(metrics.recall_at(h, k), lambda _, hits: sum(hits[:k]) / max(relevant, 1))
    expect(metrics.success_at(h, k), lambda _, hits: float(any(hits[:k])))
    expect(metrics.reciprocal_rank(h), lambda _, hits: 1 / (hits.index(1) + 1) if any(hits) else 0.0)
    expect(metrics.ndcg(graded(ranking), k), lambda grades, _: dcg(grades, k) / ideal if ideal else 0.0)
    ideal_of_all = dcg(sorted(every[0][0], reverse=True), n_rows)
    expect(metrics.ndcg(graded(ranking)), lambda grades, _: dcg(grades, n_rows) / ideal_of_all if ideal_of_all else 0.0)
    if relevant:
        values = [ap(hits, relevant) for _, hits in every]
        for bound, extreme in zip(metrics.average_precision_bounds(h), (min(values), max(values)), strict=True):
            assert bound[0] == pytest.approx(extreme, rel=1e-12)
        values = [interpolated(hits, 5) for _, hits in every]
        bounds = metrics.interpolated_precision_bounds(h, points=5)
        for bound, extreme in zip(bounds, (min(values), max(values)), strict=True):
            assert bound[0] == pytest.approx(extreme, rel=1e-12)
    with_a_hit = [ap(hits[:k], sum(hits[:k])) for _, hits in every if any(hits[:k])]
    conditional = metrics.average_precision_at_hits(h, k, empty=np.nan)[0]
    assert conditional == pytest.approx(np.mean(with_a_hit) if with_a_hit else np.nan, rel=1e-12, nan_ok=True)


def large(seed, n_queries=20, n_bits=64, scale=1000):
    rng = np.random.default_rng(seed)
    shape = n_queries, n_bits + 1
    n = rng.integers(0, 2, shape) * rng.integers(0, scale, shape)
    r = rng.binomial(n, rng.random(shape) ** 4)
    return np.stack([n, r])


def test_metrics_of_several_queries_equal_those_of_each():
    h = large(0)
    for metric in METRICS:
        one_by_one = [np.asarray(metric(h[:, [i]])) for i in range(h.shape[1])]
        np.testing.assert_allclose(metric(h), np.concatenate(one_by_one, axis=-1), rtol=1e-12, atol=1e-15)


METRICS = [
    metrics.average_precision,
    metrics.trapezoid_average_precision,
    metrics.average_precision_bounds,
    metrics.interpolated_precision_bounds,
    metrics.reciprocal_rank,
    *(
        partial(metric, k=k)
        for k in (1, 100, 10**6)
        for metric in (
            metrics.average_precision_at,
            metrics.average_precision_at_hits,
            metrics.precision_at,
            metrics.recall_at,
            metrics.success_at,
        )
    ),
    partial(metrics.precision_within, radius=2),
    partial(metrics.recall_within, radius=2),
]


def test_the_worked_example_of_each_definition():
    hits = [1, 0, 1, 1, 0, 0, 1]
    h = np.array([[[1] * 7], [hits]])
    assert metrics.average_precision(h)[0] == pytest.approx(0.7470, abs=5e-5)
    assert metrics.trapezoid_average_precision(h)[0] == pytest.approx(0.7068, abs=5e-5)
    tie = np.array([[[1000]], [[100]]])
    assert metrics.average_precision(tie)[0] == pytest.approx(0.10584, abs=5e-6)


def test_a_metric_lies_between_its_bounds_and_near_a_sample_of_orders():
    h = large(1, n_queries=3, n_bits=16, scale=300)
    low, high = metrics.average_precision_bounds(h)
    expected = metrics.average_precision(h)
    assert (low <= expected).all()
    assert (expected <= high).all()
    rng = np.random.default_rng(0)
    for i, (n, r) in enumerate(h.transpose(1, 2, 0).swapaxes(1, 2)):
        values = []
        for _ in range(300):
            hits = np.concatenate([rng.permutation(np.arange(a) < b) for a, b in zip(n, r, strict=True)])
            values.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits].mean())
        assert expected[i] == pytest.approx(np.mean(values), abs=5 * np.std(values) / 300**0.5)


def test_without_ties_scikit_learn_agrees():
    rng = np.random.default_rng(2)
    grades = rng.integers(0, 4, 200) * (rng.random(200) < 0.3)
    h = np.array([[[1] * 200], [grades > 0]]).astype(np.int64)
    scores = -np.arange(200.0)
    assert metrics.average_precision(h)[0] == pytest.approx(average_precision_score(grades > 0, scores))
    counts = np.array([[grades == grade] for grade in range(4)]).astype(np.int64)
    gains = 2.0**grades - 1
    for k in (1, 10, 200, None):
        assert metrics.ndcg(counts, k)[0] == pytest.approx(ndcg_score(gains[None], scores[None], k=k))


# ------------------------------------------------------------------ large numbers


def test_sums_over_many_ranks_are_accurate():
    for start in (0, 1, 100, 511, 512, 513, 10**8, 10**12):
        for count in (0, 1, 2, 511, 600, 5000):
            exact = math.fsum(1 / (start + i) for i in range(1, count + 1))
            actual = harmonic(np.array([float(start)]), np.array([float(count)]))[0]
            assert actual == pytest.approx(exact, rel=1e-12, abs=1e-300)
    table = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, 1_200_002)))])
    ranks = np.array([0, 1, 1000, DISCOUNT_RANKS - 1, DISCOUNT_RANKS, DISCOUNT_RANKS + 1, 1_200_000])
    np.testing.assert_allclose(discount_sum(ranks), table[ranks], rtol=1e-11)


@pytest.mark.parametrize(
    ("n", "r"),
    [
        ([10**8, 1, 3, 1000], [0, 1, 2, 10]),
        ([10**6, 2, 10**8, 5], [1, 2, 0, 5]),
        ([3, 0, 10**6, 10**6], [1, 0, 10, 10**5]),
        ([10**8, 1], [0, 1]),
    ],
)
def test_average_precision_of_a_hundred_million_rows(n, r):
    terms, before, found = [], 0, 0
    for a, b in zip(n, r, strict=True):
        if b:
            i = np.arange(1, a + 1, dtype=np.longdouble)
            slope = np.longdouble(b - 1) / max(a - 1, 1)
            terms.append(b * ((found + 1 + (i - 1) * slope) / (before + i)).mean())
        before, found = before + a, found + b
    actual = metrics.average_precision(np.array([[n], [r]]))[0]
    assert actual == pytest.approx(float(sum(terms) / found), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("n", "r", "before"), [(20_000, 1, 3), (20_000, 3, 0), (50_000, 40, 17), (9_000, 8_999, 2)])
def test_a_long_tie_is_an_integral(n, r, before):
    h = np.array([[[before, n]], [[0, r]]])
    chance, value = 1.0, 0.0
    for i in range(1, n - r + 2):
        value += chance * r / (n - i + 1) / (before + i)
        chance *= 1 - r / (n - i + 1)
    assert metrics.reciprocal_rank(h)[0] == pytest.approx(value, abs=1e-11)
    for k in (before + 1, before + 10, before + n // 2):
        drawn = k - before
        missed = Fraction(math.comb(n - r, drawn), math.comb(n, drawn))
        assert metrics.success_at(h, k)[0] == pytest.approx(float(1 - missed), rel=1e-10)


@pytest.mark.parametrize(("n", "r"), [(10**8, 1), (10**8, 100), (10**9, 5000), (10**7, 10**4)])
def test_the_first_hit_of_a_very_long_tie(n, r):
    """1 - sum of P(no hit among the first i) / i (i + 1), in 40 digits: term by term, and by an integral beyond."""
    chance, value = mpmath.mpf(1), mpmath.mpf(1)
    with mpmath.workdps(40):
        for i in range(1, 20_001):
            chance *= 1 - mpmath.mpf(r) / (n - i + 1)
            value -= chance / (i * (i + 1))

        def term(x):
            gammas = [mpmath.loggamma(m) for m in (n - x + 1, n - r + 1, n + 1, n - r - x + 1)]
            return mpmath.exp(gammas[0] + gammas[1] - gammas[2] - gammas[3]) / (x * (x + 1))

        nodes = [mpmath.mpf(40_001) / 2]
        while nodes[-1] < n - r:
            nodes.append(min(2 * nodes[-1], mpmath.mpf(n - r) + 0.5))
        value -= mpmath.quad(term, nodes)
    h = np.array([[[n]], [[r]]])
    assert metrics.reciprocal_rank(h)[0] == pytest.approx(float(value), abs=1e-11)


@pytest.mark.parametrize("r", [1, 2])
def test_orders_without_a_hit_are_left_out_however_rare_hits_are(r):
    """A2 of 10^8 rows with NaN for no hit; a single hit is at rank 1 or 2 with equal probability."""
    h = np.array([[[10**8]], [[r]]])
    assert metrics.average_precision_at_hits(h, 1, empty=np.nan)[0] == pytest.approx(1, abs=1e-12)
    assert metrics.average_precision_at_hits(h, 2, empty=np.nan)[0] == pytest.approx(0.75, abs=1e-7)


def test_a_cut_tie_of_many_rows():
    """A2 against a sum over all numbers of hits, with probabilities from scipy."""
    from scipy.stats import hypergeom

    n, r, before, found, k = 30_000, 9_000, 50, 20, 5_000
    h = np.array([[[before, n]], [[found, r]]])
    drawn = k - before
    hits = np.arange(1, drawn + 1)
    first = hit_precision(*np.float64([before, found, 0, 0, before]), harmonic(np.zeros(1), np.full(1, before)))
    sums = harmonic(np.full(1, float(before)), np.full(1, float(drawn)))
    term = hit_precision(np.full(drawn, float(drawn)), hits.astype(float), float(before), float(found), drawn, sums)
    chance = hypergeom(n, r, drawn).pmf(hits)
    expected = (chance * (first + term) / (found + hits)).sum()
    assert metrics.average_precision_at_hits(h, k)[0] == pytest.approx(expected, rel=1e-9)
    sure = np.array([[[10**9]], [[10**9 - 1]]])  # all but one are hits: no overflow in between
    assert metrics.average_precision_at_hits(sure, 10_000)[0] == pytest.approx(1, abs=1e-4)


# ------------------------------------------------------------------ plain metrics


def test_precision_and_recall_within_a_radius():
    h = large(3)
    n, r = h[:, :, :4].sum(axis=2)
    np.testing.assert_array_equal(metrics.precision_within(h, 3)[n > 0], (r / np.maximum(n, 1))[n > 0])
    np.testing.assert_allclose(metrics.recall_within(h, 3), r / h[1].sum(axis=1))
    precision, recall = metrics.precision_recall_curve(h)
    for radius in (0, 3, 64):
        np.testing.assert_array_equal(precision[:, radius], metrics.precision_within(h, radius))
        np.testing.assert_array_equal(recall[:, radius], metrics.recall_within(h, radius))
    assert (recall[:, -1] == 1).all()
    pooled_precision, pooled_recall = metrics.precision_recall_curve(h.sum(axis=1, keepdims=True))
    area = np.trapezoid(pooled_precision[0, :-1], pooled_recall[0, :-1])
    assert metrics.area_under_pooled_curve(h) == pytest.approx(area)


def test_a_query_without_relevant_rows_has_zero():
    h = np.zeros((2, 1, 9), np.int64)
    h[0, 0, 5] = 3
    for metric in (
        metrics.average_precision,
        metrics.trapezoid_average_precision,
        partial(metrics.average_precision_at, k=2),
        partial(metrics.average_precision_at_hits, k=2),
        partial(metrics.recall_at, k=2),
        partial(metrics.precision_within, radius=2),
        partial(metrics.recall_within, radius=2),
        lambda h: metrics.average_precision_bounds(h)[0],
        lambda h: metrics.interpolated_precision_bounds(h)[1],
        lambda h: metrics.ndcg(h[:1]),
    ):
        assert metric(h)[0] == 0
    assert metrics.average_precision_at_hits(h, 2, empty=0.5)[0] == 0.5
    assert np.isnan(metrics.average_precision_at_hits(h, 2, empty=np.nan)[0])
    assert metrics.reciprocal_rank(h)[0] == metrics.success_at(h, 3)[0] == metrics.precision_at(h, 3)[0] == 0


def test_wrong_ranks_and_radii_are_refused():
    h = large(4)
    with pytest.raises(ValueError, match="k >= 1, found 0"):
        metrics.precision_at(h, 0)
    with pytest.raises(ValueError, match="radius >= 0, found -1"):
        metrics.recall_within(h, -1)
