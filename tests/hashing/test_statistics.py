"""K-means, labels and keyed signs, each against a computation of its own."""

import numpy as np
import pytest

from hashing.anchors import kmeans
from hashing.mapreduce import Batch, Data
from hashing.statistics import Sample, keyed_signs, one_hot
from tests.conftest import blobs, cut


def rows(x):
    return Batch(np.arange(len(x)), np.asarray(x, np.float32))


@pytest.mark.parametrize("n_iter", [1, 3, 40])
def test_kmeans_is_lloyds_algorithm(n_iter, in_process):
    from sklearn.cluster import KMeans

    data, batch = Data(cut(blobs(), 4), in_process), blobs()
    first = data.reduce(Sample(9, seed=5)).x.astype(np.float64)
    found = kmeans(data, 9, n_iter, seed=5)
    x = batch.x.astype(np.float64)
    expected = KMeans(9, init=first, n_init=1, max_iter=n_iter, tol=0, algorithm="lloyd").fit(x)
    np.testing.assert_allclose(found.centres, expected.cluster_centers_, rtol=1e-9, atol=1e-9)


def test_kmeans_counts_the_rows_of_each_centre(in_process):
    data, batch = Data(cut(blobs(), 3), in_process), blobs()
    before, after = kmeans(data, 7, 4, seed=1), kmeans(data, 7, 5, seed=1)
    label = ((batch.x[:, None] - before.centres) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(after.counts, np.bincount(label, minlength=7))
    means = [batch.x[label == k].astype(np.float64).mean(axis=0) for k in range(7)]
    np.testing.assert_allclose(after.centres, means, rtol=1e-9)


def test_kmeans_agrees_to_1e_10_however_the_rows_are_cut(in_process):
    batch = blobs(2000)
    one = kmeans(Data(cut(batch, 1, 2000), in_process), 12, 10, seed=0)
    empty = batch.take(slice(0, 0))
    for shards in (cut(batch, 7, 33), cut(batch, 3, 1), [[empty], [], *cut(batch, 2), [empty]]):
        other = kmeans(Data(shards, in_process), 12, 10, seed=0)
        np.testing.assert_array_equal(other.counts, one.counts)
        np.testing.assert_allclose(other.centres, one.centres, rtol=1e-10, atol=1e-10)


def test_a_centre_without_rows_does_not_move(in_process):
    """Of two centres at one place the earlier takes all rows."""
    batch = rows([[0.0, 1.0]] * 6 + [[4.0, 1.0]] * 3)
    centres, counts = kmeans(Data(cut(batch, 2), in_process), 9, 3, seed=0)
    np.testing.assert_array_equal(centres, batch.x)
    np.testing.assert_array_equal(counts, [6, 0, 0, 0, 0, 0, 3, 0, 0])


def test_kmeans_measures_in_float64(in_process):
    """In float32 the third row is as near to either centre, and the cut of a product could decide."""
    batch = rows([[0.0, 0.0], [2.0, 0.0], [1 + 2.0**-20, 100.0]])
    data = Data([[batch]], in_process)
    seed = next(seed for seed in range(100) if (data.reduce(Sample(2, seed)).ids == [0, 1]).all())
    np.testing.assert_array_equal(kmeans(data, 2, 1, seed).counts, [1, 2])


def test_fewer_rows_than_centres(in_process):
    batch = rows([[0.0, 1.0], [4.0, 1.0], [2.0, 7.0]])
    centres, counts = kmeans(Data(cut(batch, 2), in_process), 5, 3, seed=0)
    np.testing.assert_array_equal(centres, batch.x)
    np.testing.assert_array_equal(counts, [1, 1, 1])
    with pytest.raises(ValueError, match="expected at least one row"):
        kmeans(Data([[]], in_process), 5, 3, seed=0)


def test_one_hot_takes_one_label_a_row():
    batch = blobs(20)
    y = one_hot(batch)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y, batch.y)
    assert one_hot(batch.take(slice(0, 0))).shape == (0, 6)
    with pytest.raises(ValueError, match="expected rows with labels, found rows without: a supervised method"):
        one_hot(batch._replace(y=None))
    for labels in (0, 2):
        y = batch.y.copy()
        y[7] = np.arange(6) < labels
        with pytest.raises(ValueError, match=f"expected one label for each row, found {labels} for id 7"):
            one_hot(batch._replace(y=y))


def splitmix(z):
    """SplitMix64 in whole numbers."""
    z = (z + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) % 2**64
    return z ^ z >> 31


def test_keyed_signs_are_the_first_bits_of_the_keyed_hash():
    ids = [0, 1, 2, 2**40 + 3, 2**63 - 1, -1]
    for seed in (0, 7):
        key = splitmix(seed)
        expected = [[splitmix(i % 2**64 ^ splitmix(k ^ key) ^ key) >> 63 for k in range(20)] for i in ids]
        np.testing.assert_array_equal(keyed_signs(np.array(ids), 20, seed), 2.0 * np.array(expected) - 1)


def test_keyed_signs_depend_on_the_id_and_on_nothing_else():
    ids = np.random.default_rng(0).permutation(20_000)
    signs = keyed_signs(ids, 16, seed=3)
    assert signs.dtype == np.float64
    assert keyed_signs(ids[:0], 16, seed=3).shape == (0, 16)
    np.testing.assert_array_equal(keyed_signs(ids[500:700], 16, seed=3), signs[500:700])
    bound = 5 / np.sqrt(len(ids))  # 5 standard deviations
    in_order = keyed_signs(np.arange(20_000), 16, seed=3)
    assert np.abs(in_order.mean(axis=0)).max() < bound
    assert np.abs(in_order.T @ in_order / len(ids) - np.eye(16)).max() < bound
    assert np.abs(in_order[1:].T @ in_order[:-1] / len(ids)).max() < bound
    assert np.abs(keyed_signs(np.arange(20_000), 16, seed=4).T @ in_order / len(ids)).max() < bound
