"""Each family of hash functions beside its formula, written row by row in float64."""

import pickle

import numpy as np
import pytest

from hashing.anchors import anchor_weights, rbf, squared_centre_distances
from hashing.families import (
    AnchorGraphHash,
    CosineHash,
    DeepHash,
    KernelHash,
    LinearHash,
    NetworkHash,
    ProductHash,
    SphericalHash,
    ThresholdHash,
)
from hashing.quantizers.contract import Quantizer
from hashing.serialized import FAMILIES, from_arrays, to_arrays
from storage import models

D, K, M = 5, 4, 7
RNG = np.random.default_rng(0)
W, T, A = (RNG.standard_normal(shape) for shape in ((D, K), (K,), (M, D)))
V = RNG.standard_normal((M, K))
CENTRES = RNG.standard_normal((2, 4, 3))
ROTATION = RNG.standard_normal((D, 6))
LEVELS = RNG.standard_normal((2, D))
LAYERS = RNG.standard_normal((D, 3)), RNG.standard_normal((3, K))
X = 3 * RNG.standard_normal((40, D)).astype(np.float32)


def nearest_codes(x):
    parts = np.split((x - T[0]) @ ROTATION, 2)
    return [((part - centres) ** 2).sum(1).argmin() for part, centres in zip(parts, CENTRES, strict=True)]


def by_anchors(x):
    distances = ((x - A) ** 2).sum(1)
    near = np.argsort(distances)[:3]
    z = np.zeros(M)
    z[near] = np.exp(-distances[near] / 0.7**2) / np.exp(-distances[near] / 0.7**2).sum()
    y = z @ V
    return np.array([*y, y[0] - 0.1 if y[0] >= 0 else -0.2 - y[0]])


def thresholded(x):
    low, high = (x - level for level in LEVELS)
    return np.array([*low, max(high[0], high[1]), max(high[2], high[3]), high[4]])


EVERY = {
    "LinearHash": (LinearHash(W, T), lambda x: x @ W - T),
    "ThresholdHash": (ThresholdHash(LEVELS, D, paired=True), thresholded),
    "CosineHash": (CosineHash(W, T, T / 9), lambda x: np.cos(x @ W + T) - T / 9),
    "SphericalHash": (SphericalHash(A[:K], abs(T)), lambda x: T**2 - ((x - A[:K]) ** 2).sum(1)),
    "KernelHash": (KernelHash(A, 0.1, V, T / 9), lambda x: np.exp(-0.1 * ((x - A) ** 2).sum(1)) @ V - T / 9),
    "AnchorGraphHash": (AnchorGraphHash(A, 0.7, 3, V, np.array([[0.1], [-0.2]])), by_anchors),
    "ProductHash": (
        ProductHash(np.full(D, T[0]), ROTATION, CENTRES),
        lambda x: np.array([1 if code >> j & 1 else -1 for code in nearest_codes(x) for j in range(2)]),
    ),
    "NetworkHash": (
        NetworkHash(LAYERS, (T[:3], T), "tanh"),
        lambda x: np.tanh(x @ LAYERS[0] + T[:3]) @ LAYERS[1] + T,
    ),
    "DeepHash": (
        DeepHash((V[0, 0] * np.ones(D), np.full(1, 2.0), W.T, T), "linear", D, K),
        lambda x: (x - V[0, 0]) / 2 @ W + T,
    ),
}


def test_no_family_is_left_out():
    assert EVERY.keys() == {name for name, family in FAMILIES.items() if not issubclass(family, Quantizer)}


@pytest.mark.parametrize("name", sorted(EVERY))
def test_values_are_those_of_the_formula(name):
    function, formula = EVERY[name]
    expected = np.array([formula(x) for x in X.astype(np.float64)])
    found = function.project(X)
    assert (function.n_bits, function.dim) == (expected.shape[1], D)
    if name == "ProductHash":
        np.testing.assert_array_equal(np.where(found >= 0, 1, -1), expected)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)  # float32


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1, 1e3, 1e15])
def test_a_few_rows_have_the_bits_of_a_block(scale):
    x = scale * (RNG.standard_normal((600, 96)) + 3).astype(np.float32)
    weight = RNG.standard_normal((96, 40)) / 10
    block = LinearHash(weight, np.zeros(40)).project(x)
    for threshold in (np.zeros(40), block[7], np.nextafter(block[7], np.float32(np.inf)), np.median(block, axis=0)):
        function = LinearHash(weight, threshold)
        expected = function.encode(x)
        for n in (1, 3, 50):
            few = [function.encode(x[i : i + n]) for i in range(0, len(x), n)]
            np.testing.assert_array_equal(np.concatenate(few), expected)


@pytest.mark.parametrize("name", sorted(EVERY))
def test_saves_and_loads(name, tmp_path):
    function = EVERY[name][0]
    for again in (
        models.load_model(str(tmp_path), models.save_model(str(tmp_path), function)),
        from_arrays(*to_arrays(function)),
    ):
        np.testing.assert_array_equal(again.project(X), function.project(X))


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"^threshold has NaN or infinite values: the fit did not converge"):
        LinearHash(W, np.full(K, np.nan))
    with pytest.raises(ValueError, match=r"^weights has NaN or infinite values: the fit did not converge"):
        NetworkHash((LAYERS[0], np.full((3, K), np.inf)), (T[:3], T), "tanh")


def test_vectors_beyond_the_range_of_float32_are_refused():
    with pytest.raises(ValueError, match=r"^weight has NaN or infinite values: the fit did not converge"):
        LinearHash(np.full((D, K), 1e39), np.zeros(K))
    x = X.copy()
    x[3, 0] = 1e30
    with pytest.raises(ValueError, match=r"^row 3: values up to 1e\+30 overflow float32"):
        EVERY["SphericalHash"][0].project(x)


def test_a_family_with_other_fields_is_refused():
    _, arrays, numbers = to_arrays(EVERY["KernelHash"][0])
    with pytest.raises(ValueError, match=r"expected the fields \[.*\] of KernelHash, found"):
        from_arrays("KernelHash", arrays, {**numbers, "more": 1})
    with pytest.raises(ValueError, match="unknown family of hash functions"):
        from_arrays("os.system", arrays, numbers)
    with pytest.raises(ValueError, match="hash functions 'Theirs'"):  # before it is saved
        to_arrays(type("Theirs", (LinearHash,), {})(W, T))


def test_kernels_do_not_underflow_or_cancel():
    far = X.astype(np.float64) + 1e6
    np.testing.assert_allclose(
        squared_centre_distances(far, far[:3]), ((far[:, None] - far[:3]) ** 2).sum(2), atol=1e-6
    )
    np.testing.assert_allclose(rbf(X, X[:3], 0.5)[range(3), range(3)], 1, atol=1e-5)
    z = anchor_weights(1000 * X, A.astype(np.float32), 0.01, 2)
    np.testing.assert_allclose(z.sum(1), 1, rtol=1e-6)
    assert ((z > 0).sum(1) <= 2).all()


def test_a_pickled_linear_function_holds_its_fields_only():
    function = LinearHash(np.eye(8, dtype=np.float32), np.zeros(8, np.float32))
    empty = len(pickle.dumps(function))
    function.project(np.ones((2, 8), np.float32))
    assert len(pickle.dumps(function)) == empty
