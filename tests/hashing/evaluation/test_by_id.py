"""Rankings by (distance, id) against plain loops over that order, for any cut into shards."""

import math

import numpy as np
import pytest

from hashing.evaluation import by_id, metrics
from hashing.evaluation.by_id import RankingById
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Batch

N, N_QUERIES, N_BYTES = 300, 25, 1


@pytest.fixture
def database():
    """Return rows with few distances and ids in random order; the first rows are the queries."""
    rng = np.random.default_rng(0)
    y = (rng.random((N, 70)) < 0.05).astype(np.uint8)
    return Batch(rng.permutation(10 * N)[:N] - N, rng.integers(0, 256, (N, N_BYTES), np.uint8), y)


def rankings(queries, rows, grade):
    """Yield for each query the grades of all other rows, sorted by (distance, id)."""
    for i, code in enumerate(queries.x):
        others = [j for j in range(len(rows.ids)) if rows.ids[j] != queries.ids[i]]
        distance = np.bitwise_count(rows.x ^ code).sum(axis=1)
        yield [grade(i, j) for j in sorted(others, key=lambda j: (distance[j], rows.ids[j]))]


def metrics_of(grades, k):
    """Return the metrics of one order, by their definitions."""
    hits = [int(grade > 0) for grade in grades]
    precision = [sum(hits[: rank + 1]) / (rank + 1) for rank in range(len(hits))]
    at_hits = [p for p, hit in zip(precision, hits, strict=True) if hit]
    area, found = 0.0, 0
    for rank, hit in enumerate(hits):
        if hit:
            area += ((found / rank if rank else 1.0) + precision[rank]) / 2
            found += 1
    gains = [(2**grade - 1) / math.log2(rank + 2) for rank, grade in enumerate(grades)]
    best = [(2**grade - 1) / math.log2(rank + 2) for rank, grade in enumerate(sorted(grades, reverse=True))]
    return {
        "average_precision": sum(at_hits) / len(at_hits),
        "trapezoid_average_precision": area / len(at_hits),
        "average_precision_at": sum(at_hits[: sum(hits[:k])]) / min(len(at_hits), k),
        "average_precision_at_hits": sum(at_hits[: sum(hits[:k])]) / max(sum(hits[:k]), 1),
        "precision_at": sum(hits[:k]) / k,
        "recall_at": sum(hits[:k]) / len(at_hits),
        "success_at": float(any(hits[:k])),
        "reciprocal_rank": 1 / (hits.index(1) + 1),
        "ndcg": sum(gains[:k]) / sum(best[:k]),
    }


def check(queries, rows, ranked, grade, n_grades):
    k = 20
    expected = [metrics_of(order, k) for order in rankings(queries, rows, grade)]
    parts = [ranked.run_counts(range(start, start + 5), by_id.rows_by_id([[rows]]), n_grades) for start in (0, 20)]
    for start, graded in zip((0, 20), parts, strict=True):
        h = np.stack([graded.sum(axis=0), graded[1:].sum(axis=0)])
        for name in expected[0]:
            of_first = [k] if name == "ndcg" or "at" in name.split("_") else []
            found = getattr(metrics, name)(graded if name == "ndcg" else h, *of_first)
            # the absolute error of reciprocal_rank is at most 1e-11
            np.testing.assert_allclose(found, [one[name] for one in expected[start : start + 5]], rtol=1e-10)
        assert (h[0].sum(axis=1) == N - 1).all()


def test_rankings_give_the_metrics_of_one_order(database):
    queries = database.take(slice(N_QUERIES))
    ranked = RankingById(queries.x, queries.ids, pack_labels(queries.y))
    shared = queries.y.astype(int) @ database.y.T
    assert shared.max() > 2
    check(queries, database, ranked, lambda i, j: min(shared[i, j], 1), 2)
    check(queries, database, ranked, lambda i, j: min(shared[i, j], 3), 4)
    listed = np.stack([np.random.default_rng(i).permutation(database.ids)[:30] for i in range(N_QUERIES)])
    ranked = RankingById(queries.x, queries.ids, None, np.pad(listed, ((0, 0), (0, 1)), constant_values=10**9))
    check(queries, database, ranked, lambda i, j: int(database.ids[j] in listed[i]), 2)


def test_more_shared_labels_than_a_byte_counts(database):
    """All rows share 300 labels with the queries, and are counted at the last grade."""
    y = np.ones((N, 300), np.uint8)
    rows = by_id.rows_by_id([[database._replace(y=y)]])
    counts = RankingById(database.x, database.ids, pack_labels(y)).run_counts(range(2), rows, 301)
    assert counts[300].sum(axis=1).tolist() == [N - 1, N - 1]
    assert counts.sum() == 2 * (N - 1)


def test_a_query_alone_has_an_empty_ranking(database):
    alone = database.take(slice(1))
    counts = RankingById(alone.x, alone.ids, pack_labels(alone.y)).run_counts(range(1), by_id.rows_by_id([[alone]]), 2)
    h = np.stack([counts.sum(axis=0), counts[1]])
    assert metrics.average_precision_at(h, 5).tolist() == [0]


def test_rows_are_in_order_of_id_for_every_cut(database):
    whole = by_id.rows_by_id([[database]])
    assert (np.diff(whole.ids) > 0).all()
    cut = [[database.take(slice(0, 7)), database.take(slice(7, 7))], [], [database.take(slice(7, None))]]
    for one, other in zip(whole, by_id.rows_by_id(cut), strict=True):
        np.testing.assert_array_equal(one, other)


def test_too_many_rows_and_none_are_refused(database, monkeypatch):
    with pytest.raises(ValueError, match="at least one row to rank, found none in all shards"):
        by_id.rows_by_id([[], [database.take(slice(0))]])
    monkeypatch.setattr(by_id, "MAX_ROWS", N - 1)
    with pytest.raises(ValueError, match="expected at most 299 rows to rank by id, found more"):
        by_id.rows_by_id([[database]])
    unlabelled = RankingById(database.x, database.ids, None)
    with pytest.raises(ValueError, match="labels of both the queries and the rows"):
        unlabelled.run_counts(range(1), database, 2)
