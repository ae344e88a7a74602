"""Bounds on rounding errors, beside what numpy and torch do with the same rows in blocks of several sizes."""

import numpy as np
import pytest
import torch

from hashing.deep import networks
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
from tests.hashing.test_functions import EVERY

D, K, M, N = 96, 16, 40, 512
RNG = np.random.default_rng(4)
OFFSET = 300  # sums cancel, so that their rounding shows in the bits
X = (RNG.standard_normal((N, D)) + OFFSET).astype(np.float32)
W, V, ANCHORS = RNG.standard_normal((D, K)), RNG.standard_normal((M, K)), X[:M].copy()


def centred(function):
    """The function with thresholds at values of rows, so that some bits hang by their rounding."""
    u = function.values(X.astype(np.float64))
    rows = RNG.permutation(N)[:K]
    return u[rows, np.arange(K)]


def deep(seed=0):
    torch.manual_seed(seed)
    network = networks.build("mlp", D, K)
    network.scale(torch.tensor(X.mean(axis=0)), torch.tensor(X.var(axis=0)))
    return DeepHash(tuple(part.numpy() for part in network.state_dict().values() if part.dim()), "mlp", D, K)


ZERO = np.zeros(K)
LAYERS = W / 10, RNG.standard_normal((K, K))
SMALL = {  # offsets at which the family still has something to tell
    "LinearHash": LinearHash(W, centred(LinearHash(W, ZERO))),
    "ThresholdHash": ThresholdHash(X[:2, :81], D, paired=True),
    "CosineHash": CosineHash(W / 50, ZERO, centred(CosineHash(W / 50, ZERO, ZERO))),
    "SphericalHash": SphericalHash(ANCHORS[:K], np.full(K, np.sqrt(2 * D))),
    "KernelHash": KernelHash(ANCHORS, 0.01, V, centred(KernelHash(ANCHORS, 0.01, V, ZERO))),
    "AnchorGraphHash": AnchorGraphHash(ANCHORS, 10.0, 3, V - V.mean(axis=0), RNG.standard_normal((2, 4)) / 10),
    "ProductHash": ProductHash(
        X.mean(axis=0), W[:, :12], ((X[:64] - X.mean(axis=0)) @ W[:, :12]).reshape(4, 16, 12)[:, :, :3]
    ),
    "NetworkHash": NetworkHash(LAYERS, (-X.mean(axis=0) @ LAYERS[0], RNG.standard_normal(K)), "tanh"),
    "DeepHash": deep(),
}


def test_no_family_is_left_out():
    assert SMALL.keys() == EVERY.keys()


def variants(function):
    """u of all rows by numpy in blocks of several sizes, and by torch in batches of several."""
    yield function.project(X)
    for rows in (1, 7, 100):
        yield np.concatenate([function.values(X[i : i + rows]) for i in range(0, N, rows)])
    moved = function.to("cpu")
    yield moved.project(X)
    moved.batches.rows = 32
    yield moved.project(X)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_errors_stay_below_the_bound_and_bits_differ_only_where_they_are_undetermined(name):
    function = SMALL[name]
    exact = function.exact(X) if name == "DeepHash" else function.values(X.astype(np.float64))
    bound = function.rounding(X if name == "DeepHash" else X.astype(np.float64))
    undetermined = function.undetermined(X)
    for u in variants(function):
        assert (np.abs(u - exact) <= bound).all()
        assert not ((u >= 0) != (exact >= 0))[~undetermined].any()
    assert bound.shape == exact.shape
    finite = bound[np.isfinite(bound)]
    assert len(finite) > 0.9 * bound.size
    assert np.median(finite) < 0.1 * exact.std(), "the bound tells nothing"
    assert undetermined.mean() < 0.2


def test_bits_at_their_threshold_do_differ_between_two_orders_of_summation():
    function, order = SMALL["LinearHash"], np.random.default_rng(5).permutation(D)
    other = LinearHash(function.weight[order], function.threshold)
    differing = function.project(X) >= 0
    differing = differing != (other.project(X[:, order]) >= 0)
    assert differing.any()
    assert function.undetermined(X)[differing].all()


def test_bfloat16_has_its_own_bound():
    function = SMALL["DeepHash"]
    x = np.tile(X, (8, 1)) + np.random.default_rng(6).standard_normal((8 * N, D)).astype(np.float32)
    differing = (function.project(x) >= 0) != (function.to("cpu", "bf16").project(x) >= 0)
    assert differing.any()
    assert function.undetermined(x, "bf16")[differing].all()
    assert not function.undetermined(x)[differing].all()
    assert function.undetermined(x, "bf16").mean() < 0.2


def test_a_row_with_two_nearest_anchors_is_undetermined():
    function = AnchorGraphHash(np.array([[0.0], [2.0], [9.0]]), 1.0, 1, V[:3], np.zeros((2, 0)))
    assert function.undetermined(np.array([[1.0]])).all()
    assert not function.undetermined(np.array([[0.9]])).any()
