"""The number of directions and of bits for each that pca_rabitq learns."""

import numpy as np
import pytest

from hashing.bits import pack
from hashing.mapreduce import Batch, Data
from hashing.methods import pca_rabitq
from hashing.quantizers.estimator import levels_of
from hashing.quantizers.rabitq import RaBitQHash
from hashing.solvers import random_directions
from tests.hashing.quantizers.rows import batch_of, exact

RNG = np.random.default_rng(6)
D, N_BITS = 64, 48


def rows(n, slope):
    """Return rows on the axes, whose variances decrease by a power law."""
    return (RNG.standard_normal((n, D)) * np.arange(1, D + 1) ** -slope).astype(np.float32)


def lost(function, x):
    """Return the mean squared distance of rows from the nearest multiple of their levels, rotated back."""
    v = x @ function.rotation
    y = levels_of(pack(function.encode(x)), function.bits, v.shape[1]) - (2**function.bits - 1) / 2
    return ((x**2).sum(axis=1) - (v * y).sum(axis=1) ** 2 / (y**2).sum(axis=1)).mean()


def recall(function, x, q):
    """Return the share of the 10 nearest rows among the first 20 estimates."""
    truth, found = (
        np.argsort(distances, axis=1)
        for distances in (exact(x, q, "euclidean"), function.estimator(q, "euclidean")(batch_of(function, x)))
    )
    return np.mean([np.isin(near[:10], first[:20]).mean() for near, first in zip(truth, found, strict=True)])


@pytest.mark.parametrize(("slope", "expected"), [(0.0, 48), (0.4, 24), (0.7, 16), (1.5, 8)])
def test_the_number_of_directions_loses_least_and_finds_most(in_process, slope, expected):
    x, q = rows(2000, slope), rows(50, slope)
    x -= x.mean(axis=0)
    functions = {}
    for k in pca_rabitq._divisions(N_BITS, D):
        rotation = np.eye(D)[:, :k] @ random_directions(k, k, np.random.default_rng(0))
        functions[k] = RaBitQHash(rotation.astype(np.float32), np.zeros(k, np.float32), N_BITS // k)
    assert list(functions) == [48, 24, 16, 12, 8, 6]
    found = pca_rabitq.PCARaBitQ(N_BITS).fit(Data([[Batch(np.arange(len(x)), x)]], in_process))
    k = len(found.centre)
    assert (k, found.bits) == (expected, N_BITS // expected)
    assert lost(functions[k], x) < 1.02 * min(lost(function, x) for function in functions.values())
    assert recall(functions[k], x, q) > max(recall(function, x, q) for function in functions.values()) - 0.03


@pytest.mark.parametrize(("n_bits", "fewer"), [(41, 40), (265, 264), (400, 264)])
def test_a_code_length_that_is_no_product_is_refused(n_bits, fewer):
    with pytest.raises(ValueError, match=f"at most d = 33 directions and at most 8 bits .*: ask for {fewer} bits"):
        pca_rabitq.PCARaBitQ(n_bits).check_dim(33)
    pca_rabitq.PCARaBitQ(fewer).check_dim(33)
