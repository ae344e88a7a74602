"""TurboQuant compared with its formulas and with RaBitQ."""

import numpy as np
import pytest

from hashing.bits import pack
from hashing.quantizers.estimator import levels_of
from hashing.quantizers.rabitq import RaBitQHash
from hashing.quantizers.turboquant import POSITIVE, TurboQuantHash
from hashing.solvers import random_directions
from tests.hashing.quantizers.rows import batch_of, exact

RNG = np.random.default_rng(8)
D = 40
X = (RNG.standard_normal((200, D)) + 0.5).astype(np.float32)
QUERIES = (RNG.standard_normal((6, D)) + 0.5).astype(np.float32)
ROTATION = random_directions(D, D, np.random.default_rng(0))
CENTRE = X.mean(axis=0) @ ROTATION


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_values_are_the_means_of_a_normal_variable_between_their_midpoints(bits):
    """This is the condition of Lloyd and Max."""
    values = np.array(POSITIVE[bits])
    edges = np.concatenate([[0], (values[1:] + values[:-1]) / 2, [12]])
    for low, high, value in zip(edges, edges[1:], values, strict=False):
        t = np.linspace(low, high, 20_001)
        density = np.exp(-(t**2) / 2)
        assert value == pytest.approx((t * density).sum() / density.sum(), abs=1.5e-3)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_levels_are_those_of_the_nearest_values(bits):
    function = TurboQuantHash(ROTATION, CENTRE, bits)
    v = X.astype(np.float64) @ function.rotation - function.centre
    values = np.array([-value for value in POSITIVE[bits][::-1]] + POSITIVE[bits])
    unit = v * np.sqrt(D) / np.linalg.norm(v, axis=1, keepdims=True)
    expected = np.abs(unit[:, :, None] - values).argmin(axis=2)
    found = levels_of(pack(function.encode(X)), bits, D)
    assert (found == expected).mean() > 0.998  # values are rounded to 1 / 1024


@pytest.mark.parametrize("metric", ["euclidean", "cosine", "ip"])
def test_with_one_bit_it_ranks_as_rabitq(metric):
    ours, theirs = (
        function.estimator(QUERIES, metric, real=True)(batch_of(function, X))
        for function in (TurboQuantHash(ROTATION, CENTRE), RaBitQHash(ROTATION, CENTRE))
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert (ours.argsort(axis=1, kind="stable") == theirs.argsort(axis=1, kind="stable")).mean() > 0.99


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
def test_estimates_are_unbiased_and_those_of_a_row_by_itself_exact(bits, real):
    errors = []
    for seed in range(40):
        rotation = random_directions(D, D, np.random.default_rng(seed))
        function = TurboQuantHash(rotation, X.mean(axis=0) @ rotation, bits)
        batch = batch_of(function, X)
        errors.append(function.estimator(QUERIES, "ip", real)(batch) - exact(X, QUERIES, "ip"))
    errors = np.array(errors)
    assert abs(errors.mean()) < 3 * errors.mean(axis=(1, 2)).std() / np.sqrt(40)
    assert np.abs(errors).mean() < {2: 2.5, 4: 0.9}[bits]
    own = function.estimator(X[:20], "euclidean", real=True)(batch)
    np.testing.assert_allclose(np.diag(own), 0, atol=1e-3)


def test_codes_correctives_and_estimates_do_not_depend_on_the_batch():
    function, x = TurboQuantHash(ROTATION, CENTRE, 2), np.concatenate([X] * 22)
    whole, estimator = batch_of(function, x), function.estimator(QUERIES, "euclidean")
    scores = estimator(whole)
    for rows in (slice(0, 1), slice(1000, 4300)):
        np.testing.assert_array_equal(batch_of(function, x[rows]).x, whole.x[rows])
        np.testing.assert_array_equal(estimator(whole.take(rows)), scores[:, rows])
