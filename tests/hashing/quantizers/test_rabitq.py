"""RaBitQ compared with its formulas in float64, and with Faiss."""

import itertools
import pickle

import faiss
import numpy as np
import pytest

from hashing.bits import pack, unpack
from hashing.mapreduce import Data
from hashing.methods.rabitq import RaBitQ
from hashing.quantizers.estimator import levels_of, row_bytes, split_bytes
from hashing.quantizers.rabitq import RaBitQHash
from hashing.solvers import random_directions
from hashing.statistics import Moments
from tests.conftest import blobs, cut
from tests.hashing.quantizers.rows import batch_of, exact

RNG = np.random.default_rng(5)
D, N, Q = 44, 300, 6  # not a multiple of 8
X = (RNG.standard_normal((N, D)) * np.linspace(0.3, 2, D) + 1).astype(np.float32)
QUERIES = (RNG.standard_normal((Q, D)) * np.linspace(0.3, 2, D) + 1).astype(np.float32)
METRICS = "euclidean", "cosine", "ip"


def rotation(d, seed=0):
    return random_directions(d, d, np.random.default_rng(seed))


def quantizer(bits=1, d=D, seed=0, metric=""):
    """Return a quantizer, with float16 correctives if it has a metric."""
    r, x = rotation(d, seed), X[:, :d]
    if metric:
        return RaBitQHash.fitted(r, Moments(N, x.mean(axis=0), x.var(axis=0).sum()), bits, metric)
    return RaBitQHash(r, x.mean(axis=0) @ r, bits)


def by_hand(function, x, q, metric, rounding):
    """Estimated distances (q, n), from the definition of the estimator."""
    r, centre = function.rotation.astype(np.float64), function.centre.astype(np.float64)
    x, q = x.astype(np.float64), q.astype(np.float64)
    if metric == "cosine":
        q = q / np.linalg.norm(q, axis=1, keepdims=True)
    v, p, mean = x @ r - centre, q @ r - centre, r @ centre
    k = levels_of(pack(function.encode(x)), function.bits, function.dim)
    y = k - (2**function.bits - 1) / 2
    if rounding:
        low, step = p.min(axis=1, keepdims=True), np.ptp(p, axis=1, keepdims=True) / 15
        rounded = low + step * np.floor((p - low) / step + 0.5)
    else:
        rounded = p
    products = rounded @ y.T * (v**2).sum(axis=1) / (v * y).sum(axis=1)
    if metric == "euclidean":
        return (v**2).sum(axis=1) + (p**2).sum(axis=1)[:, None] - 2 * products
    inner = products + (x - mean) @ mean + (q @ mean)[:, None]
    return np.clip(1 - inner / np.linalg.norm(x, axis=1), 0, 2) if metric == "cosine" else -inner


@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("bits", [1, 3])
def test_estimates_are_those_of_the_formula_for_rounded_and_for_real_queries(bits, metric, real):
    function = quantizer(bits)
    found = function.estimator(QUERIES, metric, real)(batch_of(function, X))
    expected = by_hand(function, X, QUERIES, metric, rounding=not real)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("metric", ["", "ip"])
@pytest.mark.parametrize("bits", [1, 2])
def test_estimates_of_inner_products_are_unbiased_over_rotations(bits, metric):
    x, q, d = X[:40, :32], QUERIES[:, :32], 32
    errors = []
    for seed in range(200):
        function = quantizer(bits, d, seed, metric)
        found = function.estimator(q, "ip", real=True)(batch_of(function, x))
        errors.append(found - exact(x, q, "ip"))
    errors = np.array(errors)
    mean, deviation = errors.mean(axis=0), errors.std(axis=0) / np.sqrt(200)
    if metric:  # <v, mean> is the same for every rotation, and so is its rounding to float16; the step's is not
        centre = X[:, :d].mean(axis=0)
        mean = np.sign(mean) * np.maximum(np.abs(mean) - 2**-11 * np.abs((x - centre) @ centre), 0)
    assert np.abs(mean / deviation).max() < 4.5  # of 240 pairs
    assert abs((mean / deviation).mean()) < 3 / np.sqrt(Q)  # pairs of a query are correlated
    assert np.abs(errors).mean() > 20 * np.abs(mean.mean())


def test_the_cosine_of_signs_and_rows_concentrates_about_its_expectation():
    x = RNG.standard_normal((200, 384)).astype(np.float32)
    function = RaBitQHash(rotation(384), np.zeros(384))
    _, correctives = next(function.quantized(x))
    f = 2 * np.sqrt(correctives[:, 1]) / (correctives[:, 0] * np.sqrt(384))
    assert 0.76 < f.min() < f.mean() == pytest.approx(np.sqrt(2 / np.pi), abs=0.003)
    assert f.max() < 0.84


def test_errors_have_the_size_of_the_bound_of_the_paper():
    """It holds 1.9 standard deviations of the error, so about 6 % of the estimates lie outside."""
    d = 384
    x, q = (RNG.standard_normal((n, d)).astype(np.float32) for n in (200, 20))
    function = RaBitQHash(rotation(d), np.zeros(d))
    _, correctives = next(function.quantized(x))
    squared_f = 4 * correctives[:, 1] / correctives[:, 0] ** 2 / d
    bound = 1.9 * np.sqrt((1 - squared_f) / squared_f / (d - 1)) * np.linalg.norm(x, axis=1)
    errors = -function.estimator(q, "ip", real=True)(batch_of(function, x)) - q @ x.T
    assert 0.03 < (np.abs(errors) > bound * np.linalg.norm(q, axis=1)[:, None]).mean() < 0.08


@pytest.mark.parametrize("bits", [1, 4])
def test_more_bits_estimate_better_and_a_row_estimates_itself_exactly(bits):
    function = quantizer(bits)
    itself = function.estimator(X[:20], "euclidean", real=True)(batch_of(function, X[:20]))
    np.testing.assert_allclose(np.diag(itself), 0, atol=1e-3)
    errors = [
        np.abs(f.estimator(QUERIES, "euclidean", real=True)(batch_of(f, X)) - exact(X, QUERIES, "euclidean")).mean()
        for f in (quantizer(bits), quantizer(bits + 1))
    ]
    assert errors[1] < 0.7 * errors[0]


def test_levels_have_nearly_the_largest_cosine_with_the_row():
    function = RaBitQHash(np.eye(4), np.zeros(4), bits=3)
    grid = np.array(list(itertools.product(np.arange(8) - 3.5, repeat=4)))
    grid /= np.linalg.norm(grid, axis=1, keepdims=True)
    x = RNG.standard_normal((200, 4)).astype(np.float32)
    y = levels_of(pack(function.encode(x)), 3, 4) - 3.5
    lost = (x.astype(np.float64) @ grid.T).max(axis=1) - (x * y).sum(axis=1) / np.linalg.norm(y, axis=1)
    assert lost.max() < 0.05
    assert lost.mean() < 0.003


@pytest.mark.parametrize(("bits", "distortion"), [(2, 0.1188), (3, 0.0374), (4, 0.0115), (6, 0.00104), (8, 8.7e-5)])
def test_rows_are_rounded_at_least_as_well_as_by_the_best_uniform_quantizer_of_a_normal_variable(bits, distortion):
    """Max, 1960. With many bits, a scale for every row is better than one for all."""
    x = RNG.standard_normal((50, 512)).astype(np.float32)
    function = RaBitQHash(np.eye(512), np.zeros(512), bits)
    y = levels_of(pack(function.encode(x)), bits, 512) - (2**bits - 1) / 2
    cosine = ((x * y).sum(axis=1) / np.linalg.norm(y, axis=1) / np.linalg.norm(x, axis=1)).mean()
    assert 0.5 * distortion < 1 - cosine**2 < 1.03 * distortion


def test_the_first_bits_of_a_longer_code_are_the_signs():
    np.testing.assert_array_equal(quantizer(3).encode(X)[:, :D], quantizer(1).encode(X))


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("metric", METRICS)
def test_a_row_at_the_mean_is_estimated_exactly(bits, metric):
    mean = np.full(8, 0.5, np.float32)
    function = RaBitQHash(np.eye(8), mean, bits)
    found = function.estimator(QUERIES[:, :8], metric)(batch_of(function, mean[None]))
    np.testing.assert_allclose(found, exact(mean[None], QUERIES[:, :8], metric), rtol=1e-5)


def test_a_constant_query_is_estimated():
    function = RaBitQHash(np.eye(8), np.full(8, 0.5))
    query = np.full((1, 8), 0.5, np.float32)
    found = function.estimator(query, "euclidean")(batch_of(function, X[:, :8]))
    np.testing.assert_allclose(found, exact(X[:, :8], query, "euclidean"), rtol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_codes_correctives_and_estimates_do_not_depend_on_the_batch(bits):
    function = quantizer(bits)
    x = np.concatenate([X] * 15)  # more rows than a block of either holds
    whole = batch_of(function, x)
    for metric, real in itertools.product(METRICS, (False, True)):
        estimator = function.estimator(QUERIES, metric, real)
        scores = estimator(whole)
        assert scores.dtype == np.float32
        for rows in (slice(0, 0), slice(0, 1), slice(5, 90), slice(1000, 4400)):
            np.testing.assert_array_equal(batch_of(function, x[rows]).x, whole.x[rows])
            np.testing.assert_array_equal(estimator(whole.take(rows)), scores[:, rows])
        one = function.estimator(QUERIES[3:4], metric, real)
        np.testing.assert_array_equal(one(whole)[0], scores[3])
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimator))(whole), scores)


def faiss_distances(metric, query_bits, bits=1):
    index = faiss.IndexRaBitQ(D, {"euclidean": faiss.METRIC_L2, "ip": faiss.METRIC_INNER_PRODUCT}[metric], bits)
    index.qb = query_bits
    index.train(X)
    index.add(X)
    found, ids = index.search(QUERIES, N)
    mean = faiss.vector_to_array(index.center).copy()
    distances = np.empty((Q, N))
    np.put_along_axis(distances, ids, found, axis=1)
    return distances if metric == "euclidean" else -distances, mean


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("query_bits", [0, 4])
@pytest.mark.parametrize("metric", ["euclidean", "ip"])
def test_estimates_are_those_of_faiss_which_does_not_rotate(metric, query_bits, half):
    expected, mean = faiss_distances(metric, query_bits)
    function = RaBitQHash(np.eye(D), mean)
    if half:
        function = RaBitQHash.fitted(np.eye(D), Moments(N, mean, X.var(axis=0).sum()), 1, metric)
    found = function.estimator(QUERIES, metric, real=not query_bits)(batch_of(function, X))
    tolerance = 1e-3 if half else 1e-4  # float16 rounds by up to 2^-11, and a norm is squared; Faiss has float32
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("bits", [2, 4, 7])
@pytest.mark.parametrize("metric", ["euclidean", "ip"])
def test_with_more_bits_errors_are_as_small_as_those_of_faiss(metric, bits):
    """Faiss tries all scales of a row, we a grid, so levels may differ."""
    theirs, mean = faiss_distances(metric, 0, bits)
    function = RaBitQHash(np.eye(D), mean, bits)
    ours = function.estimator(QUERIES, metric, real=True)(batch_of(function, X))
    errors = [np.abs(found - exact(X, QUERIES, metric)).mean() for found in (ours, theirs)]
    assert errors[0] < 1.02 * errors[1]


def test_fit_centres_and_rotates_by_the_seed(in_process):
    batch = blobs()
    function, other = (RaBitQ(32, seed).fit(Data(cut(batch, 3), in_process)) for seed in (0, 1))
    np.testing.assert_allclose(function.rotation @ function.rotation.T, np.eye(32), atol=1e-5)
    np.testing.assert_allclose(function.centre @ function.rotation.T, batch.x.mean(axis=0), atol=1e-5)
    assert function.columns == RaBitQ.columns == function.correctives
    assert (function.rotation != other.rotation).any()


@pytest.mark.parametrize("metric", ["euclidean", "ip"])
def test_a_short_code_is_that_of_the_principal_coordinates(in_process, metric):
    batch = blobs()
    function = RaBitQ(16).fit(Data(cut(batch, 3), in_process, metric=metric))
    assert (function.dim, function.n_bits) == (32, 16)
    basis = np.linalg.eigh(np.cov(batch.x.T))[1][:, ::-1][:, :16]
    basis *= np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(16)])
    x, r = (batch.x @ basis).astype(np.float32), rotation(16)
    projected = RaBitQHash(r, x.mean(axis=0) @ r)
    assert (function.encode(batch.x) == projected.encode(x)).mean() > 0.999  # but for rounding
    found = function.estimator(batch.x[:5], metric, real=True)(batch_of(function, batch.x))
    expected = projected.estimator(x[:5], metric, real=True)(batch_of(projected, x))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("n_bits", [16, 32, 64])
def test_a_fit_reads_the_rows_once(in_process, n_bits):
    read = []

    class Counted(list):
        def __iter__(self):
            read.append(len(self))
            return super().__iter__()

    RaBitQ(n_bits).fit(Data([Counted(shard) for shard in cut(blobs(), 3)], in_process))
    assert len(read) == 3


@pytest.mark.parametrize(("n_bits", "message"), [(40, "ask for 33, 66, 99, 132 or more bits"), (297, "up to 8 bits")])
def test_a_code_length_that_is_no_multiple_of_the_dimension_is_refused(n_bits, message):
    with pytest.raises(ValueError, match=f"from 1 to 33, or as a multiple of d = 33, .*{message}"):
        RaBitQ(n_bits).check_dim(33)


def test_row_bytes_are_split_again():
    codes, correctives = pack(RNG.random((5, 12)) < 0.5), RNG.standard_normal((5, 3)).astype(np.float32)
    for dtype in (np.float32, np.float16):
        found = split_bytes(row_bytes(codes, correctives.astype(dtype)), 12, dtype)
        np.testing.assert_array_equal(found[0], codes)
        np.testing.assert_array_equal(found[1], correctives.astype(dtype))
        assert unpack(found[0], 12).shape == (5, 12)


def test_queries_of_another_dimension_and_without_a_cosine_are_refused():
    with pytest.raises(ValueError, match=r"shape \(n, 44\)"):
        quantizer().estimator(QUERIES[:, 1:], "ip")
    with pytest.raises(ValueError, match="zero, which has no cosine"):
        quantizer().estimator(0 * QUERIES, "cosine")


def test_the_estimated_cosine_distance_of_a_short_row_is_in_range():
    x = X.copy()
    x[::3] *= 1e-4  # the error of the estimate is divided by the length
    found = quantizer(3).estimator(QUERIES, "cosine")(batch_of(quantizer(3), x))
    assert found.min() >= 0
    assert found.max() <= 2
