"""What the papers prove of LSH, PCAH and ITQ."""

from itertools import pairwise

import numpy as np
import pytest

from hashing.bits import sgn
from hashing.mapreduce import Data
from hashing.methods.itq import ITQ
from hashing.methods.lsh import LSH
from hashing.methods.pcah import PCAH
from hashing.statistics import moments
from tests.conftest import blobs, cut


def test_lsh_bits_differ_with_probability_angle_over_pi(in_process):
    rng = np.random.default_rng(0)
    centred = rng.standard_normal((200, 24)).astype(np.float32)
    centred -= centred.mean(0)
    function = LSH(n_bits=4096).fit(Data([[blobs(200, 24)._replace(x=centred)]], in_process))
    x, y = centred[:100], centred[100:]
    cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    expected = np.arccos(cosine) / np.pi
    found = (function.encode(x) != function.encode(y)).mean(1)
    error = np.sqrt(expected * (1 - expected) / 4096)
    assert (np.abs(found - expected) < 4.5 * error).all()


def test_pcah_projects_on_the_directions_of_largest_variance(in_process):
    from sklearn.decomposition import PCA

    batch = blobs(n=800, d=20)
    function = PCAH(n_bits=5).fit(Data(cut(batch, 3), in_process))
    pca = PCA(5, svd_solver="full").fit(batch.x.astype(np.float64))
    np.testing.assert_allclose(np.abs((function.weight * pca.components_.T).sum(0)), 1, atol=1e-5)  # up to sign
    np.testing.assert_allclose(function.project(batch.x).mean(0), 0, atol=1e-4)


def test_itq_lowers_the_quantization_loss_in_every_iteration(in_process):
    batch = blobs(n=600, d=16)
    data = Data(cut(batch, 2), in_process)
    mean, cov = moments(data)[1:]
    basis = np.linalg.eigh(cov)[1][:, ::-1][:, :8]
    v = (batch.x - mean) @ basis

    def loss(n_iter):
        weight = ITQ(n_bits=8, n_iter=n_iter).fit(data).weight
        rotation = np.linalg.lstsq(basis, weight.astype(np.float64), rcond=None)[0]
        np.testing.assert_allclose(rotation.T @ rotation, np.eye(8), atol=1e-6)
        return ((sgn(v @ rotation) - v @ rotation) ** 2).sum()

    losses = [loss(n_iter) for n_iter in (0, 1, 2, 3, 5, 10, 50)]
    assert all(after <= before * (1 + 1e-6) for before, after in pairwise(losses))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("method", [PCAH, ITQ])
def test_more_bits_than_dimensions_are_refused(method, in_process):
    with pytest.raises(ValueError, match=r"expected n_bits <= d, .*, found n_bits = 33, d = 32"):
        method(n_bits=33).fit(Data(cut(blobs(100), 1), in_process))


def test_moments_do_not_cancel_far_from_zero(in_process):
    batch = blobs(n=500, d=6)
    x = batch.x.astype(np.float64)
    far = batch._replace(x=x + 1e8)
    exact = np.cov(x, rowvar=False, bias=True)
    for n_shards in (1, 4, 7):
        n, mean, cov = moments(Data(cut(far, n_shards), in_process))
        assert n == 500
        np.testing.assert_allclose(cov, exact, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(mean - 1e8, x.mean(0), atol=1e-6)


def test_moments_agree_to_1e_10_however_the_rows_are_cut(in_process):
    batch = blobs(n=3000, d=12)
    one = moments(Data(cut(batch, 1), in_process))
    for n_shards, batch_rows in ((4, 100), (7, 33), (1, 1)):
        other = moments(Data(cut(batch, n_shards, batch_rows), in_process))
        np.testing.assert_allclose(other.mean, one.mean, rtol=1e-10)
        np.testing.assert_allclose(other.cov, one.cov, rtol=1e-10, atol=1e-10 * np.abs(one.cov).max())
