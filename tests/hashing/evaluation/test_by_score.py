"""Rankings by score, compared with a sort of all rows, for any cut into shards."""

from dataclasses import replace

import numpy as np
import pytest

from hashing import bits
from hashing.evaluation import by_score, metrics
from hashing.evaluation.by_score import InnerProducts, NearestByScore, RankingByScore, histogram
from hashing.evaluation.histograms import HammingHistogram
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Batch, Data
from hashing.neighbours.candidates import AsymmetricTopK
from hashing.neighbours.id_lookup import neighbour_lookup
from tests.conftest import cut

RNG = np.random.default_rng(7)
N, Q, BITS, C = 300, 9, 6, 70  # 64 codes, so that many rows are tied; labels of two words
ROWS = Batch(
    RNG.permutation(10 * N)[:N],
    bits.pack(RNG.random((N, BITS)) < 0.5),
    (RNG.random((N, C)) < 0.01).astype(np.uint8),
)
U = RNG.standard_normal((Q, BITS)).astype(np.float32)
LABELS = (RNG.random((Q, C)) < 0.05).astype(np.uint8)
LABELS[2] = 0  # a query without relevant rows
OWN = ROWS.ids[:Q]  # queries are rows of the database
NEIGHBOURS = np.array([RNG.permutation(ROWS.ids)[:5] for _ in range(Q)])
BY_LABELS = RankingByScore(InnerProducts(U), OWN, pack_labels(LABELS))
BY_NEIGHBOURS = RankingByScore(InnerProducts(U), OWN, None, neighbour_lookup(NEIGHBOURS, OWN))


def sorted_histogram(scores, relevant, own_ids=OWN):
    """The histogram over all distinct scores, by a sort of all rows."""
    rows = [np.unique(scores[i][own_ids[i] != ROWS.ids], return_inverse=True) for i in range(Q)]
    h = np.zeros((2, Q, max(len(levels) for levels, _ in rows)), np.int64)
    for i, (_, bins) in enumerate(rows):
        np.add.at(h[0, i], bins, 1)
        np.add.at(h[1, i], bins, relevant[i][own_ids[i] != ROWS.ids])
    return h


RELEVANT = {
    "labels": (BY_LABELS, LABELS.astype(int) @ ROWS.y.T.astype(int) > 0),
    "neighbours": (BY_NEIGHBOURS, np.array([np.isin(ROWS.ids, some) for some in NEIGHBOURS])),
}


@pytest.mark.parametrize("kind", RELEVANT)
def test_metrics_are_those_of_a_sort_of_all_rows(kind, in_process):
    ranking, relevant = RELEVANT[kind]
    found = histogram(ranking, Data(cut(ROWS, 4, 23), in_process))
    expected = sorted_histogram(InnerProducts(U)(ROWS), relevant)
    assert found[0].sum(axis=1).tolist() == [N - 1] * Q
    for metric in (
        metrics.average_precision,
        metrics.reciprocal_rank,
        lambda h: metrics.precision_at(h, 17),
        lambda h: metrics.recall_at(h, 50),
        lambda h: metrics.average_precision_at(h, 40),
    ):
        np.testing.assert_allclose(metric(found), metric(expected), rtol=1e-12)


@pytest.mark.parametrize("ranking", [BY_LABELS, BY_NEIGHBOURS])
@pytest.mark.parametrize(("n_shards", "batch_rows", "cells"), [(1, N, 1), (7, 11, 100), (N, 1, 2**22)])
def test_the_histogram_is_the_same_for_any_cut(ranking, n_shards, batch_rows, cells, in_process, monkeypatch):
    expected = histogram(ranking, Data([[ROWS]], in_process))
    monkeypatch.setattr(by_score, "CELLS", cells)
    shards = [[], *cut(ROWS, n_shards, batch_rows)]
    np.testing.assert_array_equal(histogram(ranking, Data(shards, in_process)), expected)


def test_ndcg_is_that_of_a_sort_of_all_rows(in_process):
    grades = LABELS.astype(int) @ ROWS.y.T.astype(int)
    assert grades.max() > 1
    found = histogram(replace(BY_LABELS, n_grades=LABELS.sum(axis=1).max() + 1), Data(cut(ROWS, 4, 23), in_process))
    np.testing.assert_array_equal(found[:2], histogram(BY_LABELS, Data(cut(ROWS, 4, 23), in_process)))
    np.testing.assert_array_equal(found[2:].sum(axis=0), found[0])
    expected = np.stack(
        [sorted_histogram(InnerProducts(U)(ROWS), grades == grade)[1] for grade in range(len(found) - 2)]
    )
    for depth in (None, 10):
        np.testing.assert_allclose(metrics.ndcg(found[2:], depth), metrics.ndcg(expected, depth))


def test_the_nearest_rows_are_those_of_a_sort_by_score_and_id(in_process):
    scores = InnerProducts(U)(ROWS)
    for k in (1, 20, N + 3):
        found, ids = Data(cut(ROWS, 5, 23), in_process).reduce(NearestByScore(InnerProducts(U), Q, k))
        for i in range(Q):
            order = np.lexsort((ROWS.ids, scores[i]))[:k]
            np.testing.assert_array_equal(ids[i, : len(order)], ROWS.ids[order])
            np.testing.assert_array_equal(found[i, : len(order)], scores[i, order])
        assert (ids[:, N:] == -1).all()
        assert np.isposinf(found[:, N:]).all()


def test_weights_of_one_size_rank_as_the_hamming_distance(in_process):
    codes, data = bits.pack(U >= 0), Data(cut(ROWS, 3), in_process)
    by_distance = data.reduce(HammingHistogram(codes, BITS, pack_labels(LABELS), OWN))
    ranking = RankingByScore(InnerProducts(np.where(U >= 0, 0.1, -0.1)), OWN, pack_labels(LABELS))
    found = metrics.average_precision(histogram(ranking, data))
    np.testing.assert_allclose(found, metrics.average_precision(by_distance), rtol=1e-12)


def test_scores_of_outputs_rank_as_their_distance_from_the_nearest_point_with_a_code():
    scores = InnerProducts(U)(ROWS)
    asymmetric = AsymmetricTopK(U, N)
    distances, ids = asymmetric.update(asymmetric.zero(), ROWS)
    order = np.argsort(ROWS.ids)
    places = order[np.searchsorted(ROWS.ids, ids, sorter=order)]
    expected = 2 * distances - np.abs(U).sum(axis=1, dtype=np.float64)[:, None]
    np.testing.assert_allclose(np.take_along_axis(scores, places, 1), expected, rtol=1e-5, atol=1e-6)


def test_scores_of_tanh_of_half_the_outputs_are_distances_of_probabilities_from_bits():
    ones = bits.unpack(ROWS.x, BITS)
    p = 1 / (1 + np.exp(-U.astype(float)))
    distances = np.abs(p[:, None] - ones).sum(axis=2)
    scores = InnerProducts(np.tanh(U.astype(float) / 2))(ROWS)
    np.testing.assert_allclose((BITS + scores) / 2, distances, rtol=1e-6)


def test_scores_do_not_depend_on_the_order_of_the_bits_or_on_other_rows():
    weights = RNG.standard_normal((4, 1000)) * 10.0 ** RNG.integers(-6, 6, (4, 1000))
    rows = Batch(np.arange(50), bits.pack(RNG.random((50, 1000)) < 0.5))
    scores, order = InnerProducts(weights)(rows), RNG.permutation(1000)
    other = rows._replace(x=bits.pack(bits.unpack(rows.x, 1000)[:, order]))
    np.testing.assert_array_equal(InnerProducts(weights[:, order])(other), scores)
    alone = [InnerProducts(weights)(rows.take(slice(i, i + 1))) for i in range(50)]
    np.testing.assert_array_equal(np.hstack(alone), scores)


def test_integers_of_scores_are_in_their_order():
    scores = np.array([-np.inf, -1e30, -1.0, -1e-40, -0.0, 0.0, 1e-40, 0.5, 3e38, np.inf], np.float32)
    integers = by_score.ordered(scores)
    assert (np.diff(integers.astype(np.int64)) > 0).tolist() == (np.diff(scores) > 0).tolist()
    assert integers[4] == integers[5]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value, in_process):
    with pytest.raises(ValueError, match="expected finite weights"):
        InnerProducts(np.full((2, 8), value))
    scores = lambda batch: np.full((Q, len(batch.ids)), value, np.float32)  # noqa: E731
    with pytest.raises(ValueError, match="expected finite scores, found NaN or infinity"):
        Data([[ROWS]], in_process).reduce(NearestByScore(scores, Q, 3))


def test_rows_without_labels_are_refused(in_process):
    with pytest.raises(ValueError, match="expected labels of both the queries and the rows, or neighbours"):
        histogram(BY_LABELS, Data([[ROWS._replace(y=None)]], in_process))
