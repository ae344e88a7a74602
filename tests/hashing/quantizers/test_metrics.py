"""Quantizers by the metric of their rows: float16 correctives, which lose nothing, and rows of uneven length."""

from dataclasses import replace

import numpy as np
import pytest

from hashing.mapreduce import Batch, Data
from hashing.methods import METHODS, learn, scales_rows
from hashing.unit_rows import unit_vectors
from infra.executors import InProcess
from tests.hashing.quantizers.rows import batch_of, exact

RNG = np.random.default_rng(3)
D, N, Q, K = 48, 3000, 60, 10
BASIS = RNG.standard_normal((12, D))
CASES = [("osq", 1), ("osq", 2), ("rabitq", 1), ("rabitq", 4), ("rabitq", 0.5), ("turboquant", 2)]
EACH = pytest.mark.parametrize(("name", "bits"), CASES)
METRICS = pytest.mark.parametrize("metric", ["euclidean", "cosine", "ip"])


def rows(n):
    x = RNG.standard_normal((n, 12)) @ BASIS + 0.3 * RNG.standard_normal((n, D)) + 1
    return x.astype(np.float32)


X, QUERIES = rows(N), rows(Q)
LENGTHS = np.exp(1.5 * RNG.standard_normal((N, 1))).astype(np.float32)  # the middle 95 % vary by a factor of 400
UNEVEN = X * LENGTHS / np.linalg.norm(X, axis=1, keepdims=True)


def fitted(name, bits, x, metric):
    return learn(METHODS[name](int(bits * D)), Data([[Batch(np.arange(len(x)), x)]], InProcess(), metric=metric))


def scores(function, x, metric):
    return function.estimator(QUERIES, metric)(batch_of(function, x))


def recall(found, x, metric, factor=4):
    """Return the share of the nearest K rows among the first factor * K of a ranking."""
    truth = np.argsort(exact(x, QUERIES, metric), axis=1, kind="stable")[:, :K]
    first = np.argsort(found, axis=1, kind="stable")[:, : factor * K]
    return np.mean([np.isin(near, some).mean() for near, some in zip(truth, first, strict=True)])


@METRICS
@EACH
def test_float16_correctives_rank_as_float32(name, bits, metric):
    function = fitted(name, bits, X, metric)
    x = unit_vectors(X) if metric == "cosine" else X
    half, whole = scores(function, X, metric), scores(replace(function, metric=""), x, metric)
    assert batch_of(function, X).x.shape[1] == int(bits * D / 8) + 2 * len(function.columns)
    for factor in (1, 4):
        assert abs(recall(half, X, metric, factor) - recall(whole, X, metric, factor)) < 0.01
    if bits >= 1:  # a shorter code has estimates by its projections' cosines without a metric
        np.testing.assert_allclose(half, whole, rtol=2e-3, atol=2e-3 * np.abs(whole).max())


@METRICS
@pytest.mark.parametrize(("name", "bits"), [*CASES, ("pca_rabitq", 0.5)])
def test_rows_of_uneven_length_are_found_as_well_as_rows_of_length_one(name, bits, metric):
    """Their Euclidean distances are native to quantizers: they bound what is lost by the others."""
    unit = unit_vectors(UNEVEN)
    native = recall(scores(fitted(name, bits, unit, "euclidean"), unit, "euclidean"), unit, "euclidean")
    found = recall(scores(fitted(name, bits, UNEVEN, metric), UNEVEN, metric), UNEVEN, metric)
    assert found > native - 0.02


@pytest.mark.parametrize(("name", "bits"), [("rabitq", 1), ("pca_rabitq", 0.5)])
def test_by_cosine_the_length_of_a_row_does_not_matter(name, bits):
    function = fitted(name, bits, UNEVEN, "cosine")
    np.testing.assert_array_equal(batch_of(function, 2**7 * X).x, batch_of(function, X).x)
    np.testing.assert_array_equal(function.project(2**7 * X), function.project(X))
    with pytest.raises(ValueError, match="found zero in row 2000"):
        function.encode_rows(np.where(np.arange(N)[:, None] == 2000, 0, X))


@METRICS
def test_a_row_that_float16_cannot_hold_is_refused_and_one_at_the_mean_is_not(metric):
    function, x = fitted("rabitq", 1, X, metric), X[:4].copy()
    x[2] *= 1000
    assert np.isfinite(scores(function, x, metric)).all()
    x[2] *= 1000
    if metric == "cosine":
        assert np.isfinite(scores(function, x, metric)).all()
    else:
        with pytest.raises(ValueError, match="row 2 is thousands of times as far from the mean as"):
            function.encode_rows(x)
    same = fitted("rabitq", 1, np.repeat(X[:1], 50, axis=0), metric)
    np.testing.assert_allclose(scores(same, X[:1], metric), exact(X[:1], QUERIES, metric), rtol=1e-2)
    axis = np.tile(np.eye(D, dtype=np.float32)[:1], (50, 1))  # its projections are zero
    assert np.isfinite(scores(fitted("rabitq", 0.5, axis, metric), axis, metric)).all()


def test_a_model_is_of_one_metric():
    with pytest.raises(ValueError, match="estimates the cosine distance, but rows are now compared by the squared Eu"):
        fitted("osq", 1, X, "cosine").estimator(QUERIES, "euclidean")


def test_itq_finds_rows_of_uneven_length_by_cosine_as_well_as_rows_of_length_one():
    data = Data([[Batch(np.arange(N), UNEVEN)]], InProcess())

    def found(function, x, queries=QUERIES):
        codes, of_queries = (np.where(function.encode(rows), 1, -1) for rows in (x, queries))
        return recall(-of_queries @ codes.T, UNEVEN, "cosine")

    by_cosine, as_they_are = (learn(METHODS["itq"](32), replace(data, metric=by)) for by in ("cosine", "euclidean"))
    unit = replace(data, shards=[[Batch(np.arange(N), unit_vectors(UNEVEN))]])
    native = found(learn(METHODS["itq"](32), unit), unit_vectors(UNEVEN), unit_vectors(QUERIES))
    assert found(by_cosine, UNEVEN) > native - 0.02 > found(as_they_are, UNEVEN) + 0.2


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("dpsh", {"network": "cnn"}), ("dpsh", {"network": "text"}), ("dmvh", {}), ("dmvh", {"network": "resnet18+mlp"})],
)
def test_networks_get_pictures_texts_and_two_views_as_they_are(method, parameters):
    assert not scales_rows(METHODS[method](8, **parameters), "cosine")
    assert scales_rows(METHODS["dpsh"](8, network="linear"), "cosine")
