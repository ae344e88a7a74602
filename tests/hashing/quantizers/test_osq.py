"""OSQ compared with its formulas in float64."""

import numpy as np
import pytest

from hashing.bits import pack
from hashing.methods.osq import OSQ
from hashing.quantizers.estimator import levels_of
from hashing.quantizers.osq import OSQHash
from tests.hashing.quantizers.rows import batch_of, exact

RNG = np.random.default_rng(7)
D = 44
X = (RNG.standard_normal((200, D)) * np.linspace(0.3, 2, D) + 1).astype(np.float32)
QUERIES = (RNG.standard_normal((6, D)) * np.linspace(0.3, 2, D) + 1).astype(np.float32)
METRICS = "euclidean", "cosine", "ip"
GRID = {1: 0.798, 2: 1.493, 3: 2.051, 4: 2.514}


def parts(function, x):
    """Return levels (n, d), step and low (n,) of rows."""
    _, correctives = next(function.quantized(x))
    levels = levels_of(pack(function.encode(x)), function.bits, function.dim)
    return levels, *correctives[:, [0, 3]].T.astype(np.float64)


def loss(v, rounded):
    error = v - rounded
    return 0.9 * (v * error).sum(axis=1) ** 2 / (v**2).sum(axis=1) + 0.1 * (error**2).sum(axis=1)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_loss_is_never_above_that_of_the_first_interval(bits):
    function = OSQHash(X.mean(axis=0), bits)
    v, top = (X - function.mean).astype(np.float64), 2**bits - 1
    levels, step, low = parts(function, X)
    mean, deviation = v.mean(axis=1), v.std(axis=1)
    first = np.maximum(v.min(axis=1), mean - GRID[bits] * deviation)[:, None]
    last = np.minimum(v.max(axis=1), mean + GRID[bits] * deviation)[:, None]
    started = first + np.floor((np.clip(v, first, last) - first) * top / (last - first) + 0.5) * (last - first) / top
    found = loss(v, low[:, None] + step[:, None] * levels)
    assert (found <= loss(v, started) * (1 + 1e-4) + 1e-6).all()  # correctives are float32
    assert found.mean() < 0.9 * loss(v, started).mean()


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 2])
def test_estimates_are_inner_products_of_the_rounded_vectors(bits, metric, real):
    function = OSQHash(X.mean(axis=0), bits)
    q = QUERIES / np.linalg.norm(QUERIES, axis=1, keepdims=True) if metric == "cosine" else QUERIES
    mean, p = function.mean.astype(np.float64), (q - function.mean).astype(np.float64)
    levels, step, low = parts(function, X)
    rounded = p
    if not real:
        query_levels, query_step, query_low = parts(OSQHash(function.mean, 4), q)
        rounded = query_low[:, None] + query_step[:, None] * query_levels
    products = rounded @ (low[:, None] + step[:, None] * levels).T
    if metric == "euclidean":
        expected = ((X - mean) ** 2).sum(axis=1) + (p**2).sum(axis=1)[:, None] - 2 * products
    else:
        expected = -(products + (X - mean) @ mean + (q @ mean)[:, None])
        expected = np.clip(1 + expected / np.linalg.norm(X, axis=1), 0, 2) if metric == "cosine" else expected
    found = function.estimator(QUERIES, metric, real)(batch_of(function, X))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("metric", METRICS)
def test_a_row_at_the_mean_and_one_of_equal_coordinates_are_estimated(metric):
    mean = np.full(8, 0.5, np.float32)
    function, x = OSQHash(mean, 2), np.stack([mean, mean + 1])
    found = function.estimator(QUERIES[:, :8], metric, real=True)(batch_of(function, x))
    np.testing.assert_allclose(found, exact(x, QUERIES[:, :8], metric), rtol=1e-4, atol=1e-5)


def test_codes_correctives_and_estimates_do_not_depend_on_the_batch():
    function, x = OSQHash(X.mean(axis=0), 2), np.concatenate([X] * 22)
    whole, estimator = batch_of(function, x), function.estimator(QUERIES, "cosine")
    scores = estimator(whole)
    for rows in (slice(0, 1), slice(1000, 4300)):
        np.testing.assert_array_equal(batch_of(function, x[rows]).x, whole.x[rows])
        np.testing.assert_array_equal(estimator(whole.take(rows)), scores[:, rows])


@pytest.mark.parametrize(("n_bits", "message"), [(8, "ask for 12, 24, 36, 48 bits"), (60, "up to 4 bits a coordinate")])
def test_a_code_length_that_does_not_suit_the_dimension_is_refused(n_bits, message):
    with pytest.raises(ValueError, match=message):
        OSQ(n_bits).check_dim(12)
