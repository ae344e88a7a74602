"""Saved query sets and cached neighbours, on every filesystem."""

import numpy as np

from storage import queries
from tests.conftest import blobs


def test_a_query_set_is_saved_once_and_replaced_only_on_request(folder):
    first, second = blobs(20, 8), blobs(30, 8, seed=1, first_id=100)
    names, labels = tuple("abcdef"), [["abcdef"[j] for j in row.nonzero()[0]] for row in first.y]
    assert queries.load_queries(folder, "d") is None
    queries.save_queries(folder, "d", first, labels)
    queries.save_queries(folder, "d", second)  # a concurrent run: the first one wins
    for field, found in zip(first, queries.load_queries(folder, "d", names), strict=True):
        np.testing.assert_array_equal(field, found)
    assert queries.labels_of_queries(folder, "d") == set().union(*labels)
    queries.save_queries(folder, "d", second, redraw=True)
    np.testing.assert_array_equal(queries.load_queries(folder, "d").ids, second.ids)


def test_labels_are_indexed_by_any_vocabulary(folder):
    batch = blobs(20, 8)
    queries.save_queries(folder, "d", batch, [["abcdef"[j] for j in row.nonzero()[0]] for row in batch.y])
    found = queries.load_queries(folder, "d", ("x", "c", "a"))  # without b, d, e and f, and with a new label
    np.testing.assert_array_equal(found.y, np.column_stack([np.zeros(20), batch.y[:, 2], batch.y[:, 0]]))
    assert queries.load_queries(folder, "d").y is None


def test_cached_neighbours_are_read_back(folder):
    ids, distances = np.arange(12).reshape(3, 4), np.random.default_rng(0).random((3, 4))
    assert queries.cached_neighbours(folder, "key") is None
    queries.cache_neighbours(folder, "key", ids, distances)
    for kept, found in zip((ids, distances), queries.cached_neighbours(folder, "key"), strict=True):
        np.testing.assert_array_equal(kept, found)
