"""Exact neighbours against float64 distances of all pairs."""

import gzip
import os
import pickle
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch

from hashing.mapreduce import Batch, fold, merge_tree
from hashing.neighbours import exact, exact_tensors
from hashing.neighbours.exact import NearestNeighbours


@pytest.fixture(params=[None, "cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: torch computed only on the CPU")
    return request.param


def brute_force(queries, own, ids, x, k, metric="euclidean"):
    """Return ids and distances by (distance, id); pair_distances itself is tested below."""
    i, j = np.indices((len(queries), len(x))).reshape(2, -1)
    distance = exact.vector_distances(queries, x, i, j, metric).reshape(len(queries), len(x))
    distance[own[:, None] == ids] = np.inf
    labels = np.where(np.isinf(distance), -1, ids)
    order = np.lexsort((np.broadcast_to(ids, distance.shape), distance), axis=1)[:, :k]
    return np.take_along_axis(labels, order, 1), np.take_along_axis(distance, order, 1)


def over(statistic, ids, x, n_shards=1, size=500):
    states = []
    for rows in np.array_split(np.arange(len(ids)), n_shards):
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        states.append(fold(statistic, [Batch(ids[part], x[part]) for part in parts]))
    return statistic.finish(merge_tree(states, lambda group: reduce(statistic.merge, group)))


def vectors(kind, n, d, rng):
    if kind == "grid":  # many ties and duplicates
        return rng.integers(0, 3, (n, d)).astype(np.float32)
    if kind == "far":  # the mean is 10^4 times the spread, so that rounding hides most of the order
        return (rng.normal(size=(n, d)) + 1e4).astype(np.float32)
    if kind == "scales":
        return (rng.normal(size=(n, d)) * 10.0 ** rng.integers(-6, 7, (n, 1))).astype(np.float32)
    if kind == "bytes":
        return rng.integers(0, 256, (n, d), dtype=np.uint8)
    return rng.normal(size=(n, d)).astype(np.float32)


@pytest.mark.parametrize("kind", ["normal", "grid", "far", "scales", "bytes"])
@pytest.mark.parametrize("d", [1, 3, 64, 200])
@pytest.mark.parametrize("metric", exact.METRICS)
def test_neighbours_equal_a_sort_of_all_pairs(kind, d, metric, device):
    rng = np.random.default_rng(d)
    x = vectors(kind, 200, d, rng)
    x[~x.any(axis=1), 0] = 1  # a vector of zeros has no cosine
    ids = rng.permutation(10**6)[:200] - 500
    queries, own = x[:20].astype(np.float32), ids[:20]
    expected = brute_force(queries, own, ids, x, 199, metric)
    for k in (1, 10, 199):
        statistic = NearestNeighbours(queries, own, k, metric, device)
        for n_shards, size in ((1, 200), (4, 37), (7, 1 if device is None else 25)):
            actual = over(pickle.loads(pickle.dumps(statistic)), ids, x, n_shards, size)
            np.testing.assert_array_equal(actual[0], expected[0][:, :k])
            np.testing.assert_array_equal(actual[1], expected[1][:, :k])
            assert (actual[0].dtype, actual[1].dtype) == (np.int64, np.float64)


def test_neighbours_do_not_depend_on_the_tiles(device, monkeypatch):
    rng = np.random.default_rng(1)
    x, ids = vectors("grid", 700, 5, rng), np.arange(700)
    expected = over(NearestNeighbours(x[:50], ids[:50], 9), ids, x)
    monkeypatch.setattr(exact, "ROWS", 64)
    monkeypatch.setattr(exact, "QUERIES", 7)
    monkeypatch.setattr(exact, "PAIR_VALUES", 11)
    monkeypatch.setattr(exact, "CANDIDATE_BYTES", 999)
    for name, value in (("ROWS", 64), ("QUERIES", 7), ("PAIRS", 11), ("CANDIDATES", 99), ("FEW", 1)):
        monkeypatch.setattr(exact_tensors, name, value)
    statistic = NearestNeighbours(x[:50], ids[:50], 9, device=device)
    np.testing.assert_array_equal(over(statistic, ids, x, size=700), expected)


def test_distances_are_accurate_and_each_is_summed_alone():
    rng = np.random.default_rng(2)
    queries, x = vectors("scales", 30, 77, rng), vectors("scales", 40, 77, rng)
    i, j = np.indices((30, 40)).reshape(2, -1)
    long, first = queries[i].astype(np.longdouble), np.zeros(1, np.int64)
    product, norms = (
        (long * x[j]).sum(axis=1),
        np.sqrt((long**2).sum(axis=1) * (x[j].astype(np.longdouble) ** 2).sum(1)),
    )
    close = {"euclidean": ((long - x[j]) ** 2).sum(axis=1), "cosine": 1 - product / norms, "ip": -product}
    for metric, expected in close.items():
        together = exact.vector_distances(queries, x, i, j, metric)
        scale = {"euclidean": 0, "cosine": 1, "ip": norms}[metric]  # terms that cancel leave the error of the largest
        assert (np.abs(together - expected) <= 1e-14 * (np.abs(expected) + scale)).all()
        alone = [exact.vector_distances(queries[[a]], x[[b]], first, first, metric)[0] for a, b in np.ndindex(30, 40)]
        np.testing.assert_array_equal(together, alone)


def test_cosine_and_inner_product_rank_as_plain_numpy_does():
    rng = np.random.default_rng(6)
    x = (rng.normal(size=(500, 24)) * rng.lognormal(size=(500, 1))).astype(np.float32)
    queries, ids = rng.normal(size=(20, 24)).astype(np.float32), np.arange(500)
    products = queries.astype(np.float64) @ x.T.astype(np.float64)
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    for metric, score in (("cosine", products / lengths), ("ip", products)):
        found, _ = over(NearestNeighbours(queries, ids[:20] - 100, 50, metric), ids, x, 3)
        np.testing.assert_array_equal(found, np.argsort(-score, axis=1)[:, :50])


def test_too_few_neighbours_are_padded(device):
    x = np.eye(3, dtype=np.float32)
    ids, distances = over(NearestNeighbours(x, np.array([5, 6, 7]), 4, device=device), np.array([5, 6, 9]), x)
    np.testing.assert_array_equal(ids, [[6, 9, -1, -1], [5, 9, -1, -1], [9, 5, 6, -1]])
    np.testing.assert_array_equal(distances[:2], [[2, 2, np.inf, np.inf]] * 2)
    empty = over(NearestNeighbours(x, np.arange(3), 2, device=device), np.arange(0), x[:0])
    assert (empty[0] == -1).all()
    assert np.isinf(empty[1]).all()


def test_values_whose_squares_overflow_are_still_found(device):
    x = np.array([[1e30, 0], [1.0001e30, 0], [-1e30, 5]], np.float32)
    ids, _ = over(NearestNeighbours(x, np.arange(3), 1, device=device), np.arange(3), x)
    np.testing.assert_array_equal(ids, [[1], [0], [0]])


@pytest.mark.parametrize("scale", [1e-25, 1e-20, 1e17, 1e18, 3e18, 2e19])
def test_products_that_underflow_or_overflow_hide_nothing(scale, device):
    rng = np.random.default_rng(3)
    x = (scale * rng.normal(size=(300, 20))).astype(np.float32)
    x[::3] += np.float32(scale) * np.array([3, -3] * 10, np.float32)  # terms that cancel
    ids = np.arange(300)
    actual = over(NearestNeighbours(x[:30], ids[:30], 20, device=device), ids, x)
    np.testing.assert_array_equal(actual, brute_force(x[:30], ids[:30], ids, x, 20))


def test_merge_does_not_change_its_arguments():
    x, ids = np.random.default_rng(4).normal(size=(60, 4)).astype(np.float32), np.arange(60)
    statistic = NearestNeighbours(x[:5], ids[:5], 7)
    states = [statistic.update(statistic.zero(), Batch(ids[rows], x[rows])) for rows in (slice(30), slice(30, 60))]
    for array in (array for state in states for array in state):
        array.flags.writeable = False
    np.testing.assert_array_equal(statistic.finish(statistic.merge(*states)), over(statistic, ids, x))


def test_wrong_vectors_are_refused():
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"found \(4, 3\) and \(2,\)"):
        NearestNeighbours(x, np.arange(2), 1)
    with pytest.raises(ValueError, match="k >= 1, found 0"):
        NearestNeighbours(x, np.arange(4), 0)
    with pytest.raises(ValueError, match="metric of euclidean, cosine, ip, found 'l1'"):
        NearestNeighbours(x, np.arange(4), 1, "l1")
    with pytest.raises(ValueError, match="zero in row 0"):
        NearestNeighbours(x, np.arange(4), 1, "cosine")
    with pytest.raises(ValueError, match="finite queries"):
        NearestNeighbours(x + np.float32(np.nan), np.arange(4), 1)
    statistic = NearestNeighbours(x, np.arange(4), 1)
    with pytest.raises(ValueError, match=r"\(n, 3\), found \(4, 2\)"):
        over(statistic, np.arange(4), x[:, :2])
    with pytest.raises(ValueError, match="finite vectors"):
        over(statistic, np.arange(4), x + np.float32(np.inf))


def test_neighbours_of_mnist():
    folder = Path(os.environ.get("HASHKILN_DATA", "")) / "mnist"
    if not folder.exists() or "HASHKILN_DATA" not in os.environ:
        pytest.skip("HASHKILN_DATA is not set, or has no folder mnist")
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        x = np.frombuffer(file.read(16 + 5000 * 784), np.uint8)[16:].reshape(-1, 784)
    ids, distances = over(NearestNeighbours(x[:100].astype(np.float32), np.arange(100), 50), np.arange(5000), x, 4)
    expected = np.array([np.square(query.astype(np.int16) - x, dtype=np.int32).sum(axis=1) for query in x[:100]])
    expected[np.arange(100), np.arange(100)] = np.iinfo(np.int32).max
    order = np.argsort(expected, axis=1, kind="stable")[:, :50]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(expected, order, 1))
