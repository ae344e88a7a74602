"""Histograms against plain counts, for any cut into shards."""

import pickle
from functools import reduce

import numpy as np
import pytest

from hashing import bits
from hashing.evaluation import histograms
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Batch, fold
from tests.conftest import cut


def over(statistic, batch, n_shards=1):
    states = [fold(statistic, shard) for shard in cut(batch, n_shards, 37)]
    return statistic.finish(reduce(statistic.merge, states))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(5)
    ids = rng.permutation(10**6)[:500] - 1000
    ids[400] = -1  # a row like any other: padding must not match it
    return Batch(ids, bits.pack(rng.random((500, 20)) < 0.3), (rng.random((500, 5)) < 0.2).astype(np.uint8))


@pytest.mark.parametrize("n_shards", [1, 4, 7])
def test_a_histogram_by_labels_leaves_out_the_own_row(rows, n_shards):
    own = rows.ids[:30]
    own = np.where(np.arange(30) % 3, own, own + 10**9)  # every third query has no row in the database
    statistic = histograms.HammingHistogram(rows.x[:30], 20, pack_labels(rows.y[:30]), own)
    distance = (bits.unpack(rows.x[:30], 20)[:, None] != bits.unpack(rows.x, 20)).sum(axis=2)
    relevant = rows.y[:30].astype(int) @ rows.y.T.astype(int) > 0
    other = own[:, None] != rows.ids
    expected = [
        [np.bincount(d[c], minlength=21) for d, c in zip(distance, chosen, strict=True)]
        for chosen in (other, other & relevant)
    ]
    np.testing.assert_array_equal(over(pickle.loads(pickle.dumps(statistic)), rows, n_shards), expected)
    unlabelled = histograms.HammingHistogram(rows.x[:30], 20, None, own)
    np.testing.assert_array_equal(over(unlabelled, rows, n_shards), [expected[0], np.zeros((30, 21))])


@pytest.mark.parametrize("n_shards", [1, 4, 7])
def test_a_histogram_by_neighbours_counts_the_listed_rows(rows, n_shards):
    rng = np.random.default_rng(6)
    own = rows.ids[:30]
    listed = np.array([rng.permutation(rows.ids)[:40] for _ in own])
    listed[:, 0], listed[:, 1], listed[:, 2:5] = own, 10**10, -1  # the own row, an absent one, padding
    statistic = histograms.NeighbourHistogram(rows.x[:30], 20, listed, own)
    distance = (bits.unpack(rows.x[:30], 20)[:, None] != bits.unpack(rows.x, 20)).sum(axis=2)
    other = own[:, None] != rows.ids
    relevant = other & np.array([np.isin(rows.ids, row[row != -1]) for row in listed])
    expected = [
        [np.bincount(d[c], minlength=21) for d, c in zip(distance, chosen, strict=True)] for chosen in (other, relevant)
    ]
    np.testing.assert_array_equal(over(pickle.loads(pickle.dumps(statistic)), rows, n_shards), expected)


@pytest.mark.parametrize("n_shards", [1, 4, 7])
@pytest.mark.parametrize("n_grades", [1, 2, 3, 9])
def test_a_graded_histogram_equals_the_count_of_all_pairs(rows, n_shards, n_grades):
    own, labels = rows.ids[:30], pack_labels(rows.y[:30])
    statistic = histograms.GradedHistogram(rows.x[:30], 20, labels, own, n_grades)
    distance = (bits.unpack(rows.x[:30], 20)[:, None] != bits.unpack(rows.x, 20)).sum(axis=2)
    grade = np.minimum(rows.y[:30].astype(int) @ rows.y.T, n_grades - 1)
    expected = np.zeros((n_grades, 30, 21), np.int64)
    i, j = np.nonzero(own[:, None] != rows.ids)
    np.add.at(expected, (grade[i, j], i, distance[i, j]), 1)
    np.testing.assert_array_equal(over(pickle.loads(pickle.dumps(statistic)), rows, n_shards), expected)
    with pytest.raises(ValueError, match="queries and rows with labels"):
        over(statistic, rows._replace(y=None))


def test_counts_on_a_device_are_those_of_the_cpu(rows):
    """torch on the CPU: a GPU runs the kernels of hashing.hamming.cuda in its place, which have tests of their own."""
    own, labels = rows.ids[:30], pack_labels(rows.y[:30])
    listed = np.array([np.roll(rows.ids, i)[:40] for i in range(30)])
    for kind, arguments in (
        (histograms.HammingHistogram, (labels, own)),
        (histograms.HammingHistogram, (None, own)),
        (histograms.GradedHistogram, (labels, own, 3)),
        (histograms.NeighbourHistogram, (listed, own)),
    ):
        here, there = (kind(rows.x[:30], 20, *arguments, device=device) for device in (None, "cpu"))
        found = over(pickle.loads(pickle.dumps(there)), rows, 3)
        np.testing.assert_array_equal(found, over(here, rows, 3))
        assert found.dtype == np.int64


def test_wrong_queries_are_refused(rows):
    labels = pack_labels(rows.y[:3])
    with pytest.raises(ValueError, match=r"ids \(q,\), found \(3, 3\) and \(2,\)"):
        histograms.HammingHistogram(rows.x[:3], 20, labels, np.arange(2))
    with pytest.raises(ValueError, match="distinct query ids, found 1 repeated"):
        histograms.HammingHistogram(rows.x[:3], 20, labels, np.array([1, 2, 1]))
    with pytest.raises(ValueError, match=r"neighbours \(3, k\), found shape \(2, 5\)"):
        histograms.NeighbourHistogram(rows.x[:3], 20, np.zeros((2, 5), np.int64), np.arange(3))
    with pytest.raises(ValueError, match="rows with labels"):
        over(histograms.HammingHistogram(rows.x[:3], 20, labels, np.arange(3)), rows._replace(y=None))
