"""The statistics of hashing.evaluation against plain counts, and across cuts into shards; intervals."""

import pickle
from functools import reduce

import numpy as np
import pytest

from hashing import bits
from hashing.evaluation import histograms, intervals, query_overlap
from hashing.evaluation.health import CodeHealth
from hashing.hamming import distances
from hashing.mapreduce import Batch, fold


def cut(batch, n_shards, size=37):
    """Shards of consecutive rows, in batches."""
    for rows in np.array_split(np.arange(len(batch.ids)), n_shards):
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        yield [Batch(*(None if column is None else column[part] for column in batch)) for part in parts]


def over(statistic, batch, n_shards=1):
    states = [fold(statistic, shard) for shard in cut(batch, n_shards)]
    return statistic.finish(reduce(statistic.merge, states))


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(5)
    ids = rng.permutation(10**6)[:500] - 1000
    ids[400] = -1  # a row like any other, which no padding of a list may name
    return Batch(ids, bits.pack(rng.random((500, 20)) < 0.3), (rng.random((500, 5)) < 0.2).astype(np.uint8))


@pytest.mark.parametrize("n_shards", [1, 4, 7])
def test_a_label_histogram_leaves_out_the_own_row(rows, n_shards):
    own = rows.ids[:30]
    own = np.where(np.arange(30) % 3, own, own + 10**9)  # every third query is no row
    statistic = histograms.HammingHistogram(rows.x[:30], 20, distances.pack_labels(rows.y[:30]), own)
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
def test_a_list_histogram_counts_the_listed_rows(rows, n_shards):
    rng = np.random.default_rng(6)
    own = rows.ids[:30]
    listed = np.array([rng.permutation(rows.ids)[:40] for _ in own])
    listed[:, 0], listed[:, 1], listed[:, 2:5] = own, 10**10, -1  # the own row, an absent one, padding
    statistic = histograms.ListedNeighbours(rows.x[:30], 20, listed, own)
    distance = (bits.unpack(rows.x[:30], 20)[:, None] != bits.unpack(rows.x, 20)).sum(axis=2)
    other = own[:, None] != rows.ids
    relevant = other & np.array([np.isin(rows.ids, row[row != -1]) for row in listed])
    expected = [
        [np.bincount(d[c], minlength=21) for d, c in zip(distance, chosen, strict=True)] for chosen in (other, relevant)
    ]
    np.testing.assert_array_equal(over(pickle.loads(pickle.dumps(statistic)), rows, n_shards), expected)


@pytest.mark.parametrize("n_shards", [1, 4, 7])
@pytest.mark.parametrize("n_grades", [1, 2, 3, 9])
def test_the_graded_histogram_is_that_of_every_pair(rows, n_shards, n_grades):
    own, labels = rows.ids[:30], distances.pack_labels(rows.y[:30])
    statistic = histograms.GradedHistogram(rows.x[:30], 20, labels, own, n_grades)
    distance = (bits.unpack(rows.x[:30], 20)[:, None] != bits.unpack(rows.x, 20)).sum(axis=2)
    grade = np.minimum(rows.y[:30].astype(int) @ rows.y.T, n_grades - 1)
    expected = np.zeros((n_grades, 30, 21), np.int64)
    i, j = np.nonzero(own[:, None] != rows.ids)
    np.add.at(expected, (grade[i, j], i, distance[i, j]), 1)
    np.testing.assert_array_equal(over(pickle.loads(pickle.dumps(statistic)), rows, n_shards), expected)
    with pytest.raises(ValueError, match="queries and rows with labels"):
        over(statistic, rows._replace(y=None))


def test_wrong_queries_are_refused(rows):
    labels = distances.pack_labels(rows.y[:3])
    with pytest.raises(ValueError, match=r"ids \(q,\), found \(3, 3\) and \(2,\)"):
        histograms.HammingHistogram(rows.x[:3], 20, labels, np.arange(2))
    with pytest.raises(ValueError, match="distinct query ids, found 1 repeated"):
        histograms.HammingHistogram(rows.x[:3], 20, labels, np.array([1, 2, 1]))
    with pytest.raises(ValueError, match=r"neighbours \(3, k\), found shape \(2, 5\)"):
        histograms.ListedNeighbours(rows.x[:3], 20, np.zeros((2, 5), np.int64), np.arange(3))
    with pytest.raises(ValueError, match="rows with labels"):
        over(histograms.HammingHistogram(rows.x[:3], 20, labels, np.arange(3)), rows._replace(y=None))


@pytest.mark.parametrize("n_shards", [1, 4, 7])
def test_health_is_that_of_numpy(rows, n_shards):
    health = over(CodeHealth(20), rows, n_shards)
    values = bits.unpack(rows.x, 20).astype(float)
    correlation = np.corrcoef(values.T) - np.eye(20)
    np.testing.assert_allclose(health.balance, values.mean(axis=0))
    assert health.correlation == pytest.approx(abs(correlation).max())
    p = values.mean(axis=0)
    np.testing.assert_allclose(health.entropy, -p * np.log2(p) - (1 - p) * np.log2(1 - p))
    assert health.rows == 500


def test_health_of_constant_bits_and_of_nothing():
    codes = bits.pack(np.array([[True, False, True], [True, False, False]]))
    health = over(CodeHealth(3), Batch(np.arange(2), codes))
    np.testing.assert_array_equal(health.entropy, [0, 0, 1])
    assert health.correlation == 0
    with pytest.raises(ValueError, match="at least one row"):
        over(CodeHealth(3), Batch(np.arange(0), codes[:0]))


def test_the_state_of_the_health_is_small_and_counts_far():
    assert CodeHealth(4096).zero().nbytes < 1 << 26
    statistic = CodeHealth(2)
    state = statistic.update(statistic.zero(), Batch(np.arange(4), np.array([[0], [1], [3], [3]], np.uint8)))
    for _ in range(40):
        state = statistic.merge(state, state)
    health = statistic.finish(state)
    assert health.rows == 4 << 40
    assert health.correlation == pytest.approx(3**-0.5)


@pytest.mark.parametrize("kind", ["vectors", "pictures", "text"])
def test_overlap_is_found_by_id_and_by_content(kind):
    rng = np.random.default_rng(7)
    x = {
        "vectors": rng.random((100, 12), np.float32),
        "pictures": rng.integers(0, 256, (100, 4, 4, 3), np.uint8),
        "text": np.array([f"row {i}" for i in range(100)], object),
    }[kind]
    ids = np.arange(100)
    queries = np.concatenate([x[10:20], x[50:52]])
    known = np.arange(12) + 95  # 95 .. 99 are ids of rows
    for n_shards in (1, 4):
        assert over(query_overlap.Overlap(known, queries), Batch(ids, x), n_shards) == (5, 12)


# ------------------------------------------------------------------ intervals


def test_an_interval_covers_the_mean_and_is_the_same_each_time():
    rng = np.random.default_rng(8)
    covered = 0
    for seed in range(200):
        values = rng.exponential(size=100)
        low, high = intervals.bootstrap_interval(values, seed, resamples=200)
        assert (low, high) == intervals.bootstrap_interval(values, seed, resamples=200)
        covered += low <= 1 <= high
    assert 0.87 < covered / 200 < 0.99
    values = np.array([1.0, np.nan, 3.0])
    low, high = intervals.bootstrap_interval(values, 0)
    assert (low, high) == (1, 3)
    with pytest.raises(ValueError, match="not NaN, found none"):
        intervals.bootstrap_interval(values[1:2], 0)
