"""Saved query sets and cached neighbours, on every filesystem."""

import numpy as np

from storage import queries
from tests.conftest import blobs


def query_set(batch, labelled=True):
    labels = [["abcdef"[j] for j in row.nonzero()[0]] for row in batch.y]
    return queries.QuerySet(batch.ids, batch.x, labels if labelled else None)


def test_a_query_set_is_saved_once_and_replaced_only_on_request(folder):
    first, second = query_set(blobs(20, 8)), query_set(blobs(30, 8, seed=1, first_id=100), labelled=False)
    assert queries.load_queries(folder, "d") is None
    queries.save_queries(folder, "d", first)
    queries.save_queries(folder, "d", second)  # a concurrent run: the first one wins
    for field, found in zip(first, queries.load_queries(folder, "d"), strict=True):
        np.testing.assert_array_equal(field, found)
    queries.save_queries(folder, "d", second, redraw=True)
    found = queries.load_queries(folder, "d")
    np.testing.assert_array_equal(found.ids, second.ids)
    assert found.labels is None
    assert found.batch(("a",))[0].y is None


def test_labels_of_queries_are_indexed_by_any_vocabulary():
    batch = blobs(60, 8)
    found = query_set(batch)
    np.testing.assert_array_equal(found.batch(tuple("abcdef"))[0].y, batch.y)
    some, classes = found.batch(("x", "c", "y", "a"))  # without b, d, e and f, and with labels that no query has
    assert classes == (1, 3)
    np.testing.assert_array_equal(some.y, batch.y[:, [2, 0]])
    none, classes = found.batch(("x", "y"))
    assert (classes, none.y.shape, none.y.any()) == ((0,), (60, 1), False)
    assert found.batch(())[0].y is None


def test_cached_neighbours_are_read_back(folder):
    ids, distances = np.arange(12).reshape(3, 4), np.random.default_rng(0).random((3, 4))
    assert queries.cached_neighbours(folder, "key") is None
    queries.cache_neighbours(folder, "key", ids, distances)
    for kept, found in zip((ids, distances), queries.cached_neighbours(folder, "key"), strict=True):
        np.testing.assert_array_equal(kept, found)
