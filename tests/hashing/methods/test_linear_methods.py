"""What the papers say about methods with a closed form, and about spherical hashing."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.linalg
import scipy.stats

from hashing.anchors import kmeans
from hashing.mapreduce import Batch, Data
from hashing.methods.density_sensitive import DensitySensitive
from hashing.methods.dh import DH
from hashing.methods.itq_cca import ITQCCA
from hashing.methods.lsh import LSH
from hashing.methods.pca_rr import PCARR
from hashing.methods.pcah import PCAH
from hashing.methods.sh import SH, _slowest
from hashing.methods.sklsh import SKLSH
from hashing.methods.sph import SpH, _error
from hashing.methods.super_bit import SuperBit
from hashing.methods.supervised_dh import SupervisedDH
from hashing.solvers import top_eigenvectors
from hashing.statistics import Sample, moments
from tests.conftest import blobs, cut


def rows(x, y=None):
    return Batch(np.arange(len(x)), np.asarray(x, np.float32), y)


def copies(n, d=4):
    return rows(np.ones((n, d)))


def test_super_bit_estimates_the_angle_with_less_variance_than_lsh(in_process):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 16))
    y += x / 2
    angle = np.arccos(x @ y / np.linalg.norm(x) / np.linalg.norm(y)) / np.pi
    assert 0.2 < angle < 0.5  # the paper proves it of angles to a right one
    data = Data([[rows([x, -x, y, -y])]], in_process)  # of mean 0
    variance = {}
    for method in (LSH, SuperBit):
        weights = [method(n_bits=4096, seed=seed).fit(data).weight for seed in range(10)]
        differ = np.concatenate([(x @ weight > 0) != (y @ weight > 0) for weight in weights])
        batches = differ.reshape(-1, 16).mean(axis=1)  # independent estimates, of 16 bits each
        variance[method] = batches.var()
        assert abs(batches.mean() - angle) < 4 * batches.std() / np.sqrt(len(batches))
    assert variance[LSH] == pytest.approx(angle * (1 - angle) / 16, rel=0.15)
    assert variance[SuperBit] < 0.8 * variance[LSH]


@pytest.mark.parametrize(("n_bits", "depth", "batches"), [(8, 0, [8]), (40, 0, [16, 16, 8]), (10, 4, [4, 4, 2])])
def test_super_bit_planes_are_orthogonal_in_batches(n_bits, depth, batches, in_process):
    weight = SuperBit(n_bits, depth).fit(Data(cut(blobs(100, 16), 2), in_process)).weight
    blocks = scipy.linalg.block_diag(*(np.ones((size, size)) for size in batches))
    gram = weight.T @ weight
    np.testing.assert_allclose(gram[blocks > 0], np.eye(n_bits)[blocks > 0], atol=1e-6)
    assert (np.abs(gram[blocks == 0]) > 1e-6).all()  # batches are drawn by themselves
    with pytest.raises(ValueError, match="expected depth from 0 to d = 16, found depth = 17"):
        SuperBit(20, depth=17).fit(Data(cut(blobs(100, 16), 2), in_process))


def test_sklsh_bits_differ_as_the_kernel_predicts(in_process):
    gamma, n_bits, batch = 0.02, 8192, blobs(40)
    function = SKLSH(n_bits, gamma).fit(Data([[batch]], in_process))
    bits = function.encode(batch.x)
    squared = ((batch.x[:20] - batch.x[20:]) ** 2).sum(axis=1) * np.linspace(0, 1, 20)
    near = batch.x[:20] + (batch.x[20:] - batch.x[:20]) * np.sqrt(np.linspace(0, 1, 20))[:, None]
    found = (bits[:20] != function.encode(near)).mean(axis=1)
    m = np.arange(1, 1000)[:, None]
    expected = 8 / np.pi**2 * ((1 - np.exp(-gamma * m**2 * squared / 2)) / (4 * m**2 - 1)).sum(axis=0)
    assert expected.min() < 0.01
    assert expected.max() > 0.39  # the limit is 4 / pi^2
    assert (np.abs(found - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / n_bits) + 1e-4).all()


@pytest.mark.parametrize(("n", "k"), [(300, 50), (30, 29)])
def test_sklsh_takes_its_scale_from_the_50th_neighbour(n, k, in_process):
    batch = blobs(n)
    data = Data(cut(batch, 3), in_process)
    distances = np.sort(np.linalg.norm(batch.x[:, None] - batch.x.astype(np.float64), axis=2), axis=1)
    scale = SKLSH(8, gamma=1.0).fit(data).weight / SKLSH(8).fit(data).weight
    np.testing.assert_allclose(scale, distances[:, k].mean(), rtol=1e-5)  # the row itself is at place 0
    with pytest.raises(ValueError, match="cannot estimate gamma: rows equal their 50 nearest neighbours"):
        SKLSH(8).fit(Data(cut(copies(100), 2), in_process))


def test_pca_rr_rotates_the_principal_directions(in_process):
    from sklearn.decomposition import PCA

    batch = blobs(800, 20)
    first, second = (PCARR(n_bits=5, seed=seed).fit(Data(cut(batch, 3), in_process)) for seed in (0, 1))
    principal = PCA(5, svd_solver="full").fit(batch.x.astype(np.float64)).components_
    for function in (first, second):
        np.testing.assert_allclose(function.weight @ function.weight.T, principal.T @ principal, atol=1e-5)
        np.testing.assert_allclose(function.project(batch.x).mean(axis=0), 0, atol=1e-4)
    assert np.abs(first.weight - second.weight).max() > 0.1


def test_principal_directions_agree_to_1e_10_however_the_rows_are_cut(in_process):
    batch = blobs(400, 12)
    one = top_eigenvectors(moments(Data([[batch]], in_process)).cov, 12)
    for shards in (cut(batch, 7, 33), cut(batch, 400), [[], *cut(batch, 3), [batch.take(slice(0, 0))]]):
        other = top_eigenvectors(moments(Data(shards, in_process)).cov, 12)
        np.testing.assert_allclose(other, one, atol=1e-10)


def many_labels(n=600):
    """Rows with none to four of four labels, which the vectors tell of more or less clearly."""
    rng = np.random.default_rng(3)
    y = (rng.random((n, 4)) < [0.5, 0.4, 0.3, 0.3]).astype(np.uint8)
    return rows(y @ rng.standard_normal((4, 10)) * np.linspace(0.2, 2, 10) + rng.standard_normal((n, 10)) + 5, y)


@pytest.mark.parametrize("n_bits", [2, 4, 16])
def test_itq_cca_rotates_canonical_directions_scaled_by_their_correlations(n_bits, in_process):
    """WW' does not know the rotation. W comes from the eigenproblem as the paper has it."""
    batch, rho = many_labels(), 0.01
    x, y = batch.x.astype(np.float64), batch.y.astype(np.float64)
    joint = np.cov(x, y, rowvar=False, bias=True) + rho * np.eye(14)
    cov, cross, cov_y = joint[:10, :10], joint[:10, 10:], joint[10:, 10:]
    squared, w = scipy.linalg.eig(np.linalg.inv(cov) @ cross @ np.linalg.inv(cov_y) @ cross.T)
    order = np.argsort(-squared.real)[: min(n_bits, 4)]
    w = w.real[:, order] / np.sqrt(np.einsum("ij,ik,kj->j", w.real, cov, w.real)[order])
    w *= np.sqrt(squared.real[order])
    function = ITQCCA(n_bits, rho=rho).fit(Data(cut(batch, 3), in_process))
    np.testing.assert_allclose(function.weight @ function.weight.T, w @ w.T, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(function.project(batch.x).mean(axis=0), 0, atol=1e-5)


def test_itq_cca_directions_are_those_of_sklearn(in_process):
    from sklearn.cross_decomposition import CCA

    batch = many_labels()
    weight = ITQCCA(n_bits=4, rho=1e-9).fit(Data(cut(batch, 2), in_process)).weight.astype(np.float64)
    cca = CCA(4, max_iter=10_000, tol=1e-12).fit(batch.x.astype(np.float64), batch.y.astype(np.float64))
    scores, label_scores = cca.transform(batch.x.astype(np.float64), batch.y.astype(np.float64))
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores.T, label_scores.T, strict=True)]
    projected = (batch.x - batch.x.mean(axis=0, dtype=np.float64)) @ weight
    variances = np.linalg.eigvalsh(projected.T @ projected / len(projected))[::-1]
    np.testing.assert_allclose(np.sqrt(variances), correlations, atol=1e-4)
    leading = projected @ np.linalg.eigh(projected.T @ projected)[1][:, ::-1]
    agreement = [abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(scores.T, leading.T, strict=True)]
    np.testing.assert_allclose(agreement, 1, atol=1e-4)
    with pytest.raises(ValueError, match="expected rows with labels, found rows without: a supervised method"):
        ITQCCA(n_bits=4).fit(Data([[batch._replace(y=None)]], in_process))


def box(n=3000, sides=(8.0, 5.0, 3.1, 0.7)):
    x = np.random.default_rng(0).random((n, len(sides))) * sides
    x[0, -1] = 7  # of small variance, and yet long: among the sides of 4 bits, not of 2
    return rows(x + 40)


@pytest.mark.parametrize("n_bits", [2, 4, 12, 40])
def test_sh_is_the_published_algorithm(n_bits, in_process):
    """All candidates up to each side's highest mode, sorted by their eigenvalues, with eps about the range."""
    batch = box()
    x = batch.x.astype(np.float64)
    v = (x - x.mean(axis=0)) @ top_eigenvectors(np.cov(x, rowvar=False, bias=True), min(n_bits, 4))
    low, high = v.min(axis=0) - 1e-12, v.max(axis=0) + 1e-12
    sides = high - low
    highest = np.ceil((n_bits + 1) * sides / sides.max()).astype(int) - 1
    waves = [(m * np.pi / sides[j], j) for j in range(len(sides)) for m in range(1, highest[j] + 1)]
    assert len(waves) >= n_bits
    kept = sorted(waves)[:n_bits]
    u = np.stack([np.sin(np.pi / 2 + omega * (v[:, j] - low[j])) for omega, j in kept], axis=1)
    function = SH(n_bits).fit(Data(cut(batch, 4), in_process))
    np.testing.assert_allclose(function.project(batch.x), u, atol=2e-3)
    sure = np.abs(u) > 2e-3
    np.testing.assert_array_equal(function.encode(batch.x)[sure], u[sure] >= 0)
    assert sure.mean() > 0.99


def test_sh_breaks_ties_by_the_earlier_side_and_never_runs_out_of_candidates():
    for error in (-1e-13, 0, 1e-13):  # the mode 2 of the first side is as slow as the mode 1 of the second
        side, mode = _slowest(np.array([4.0, 2.0 + error, 2.0 - error]), 5)
        np.testing.assert_array_equal(side, [0, 0, 1, 2, 0])
        np.testing.assert_array_equal(mode, [1, 2, 1, 1, 3])
    side, mode = _slowest(np.array([1.0, 1e-9, 0.0]), 30)
    np.testing.assert_array_equal(side, np.zeros(30))
    np.testing.assert_array_equal(mode, np.arange(1, 31))


def test_sh_on_a_line_cuts_it_evenly_and_refuses_a_point(in_process):
    line = np.outer(np.linspace(0, 1, 1001), [3.0, 0.0, 4.0, 0.0])  # of rank 1
    function = SH(n_bits=6).fit(Data(cut(rows(line), 3), in_process))
    flips = np.abs(np.diff(function.encode(line.astype(np.float32)).astype(int), axis=0)).sum(axis=0)
    np.testing.assert_array_equal(flips, [1, 2, 3, 4, 5, 6])
    with pytest.raises(ValueError, match="expected rows that differ"):
        SH(n_bits=6).fit(Data(cut(copies(100), 3), in_process))


def overlap_errors(function, x):
    """The two criteria of the paper: mean |o - n/4| and the standard deviation of o, in units of n/4."""
    bits = function.encode(x).astype(np.float64)
    overlaps = (bits.T @ bits)[np.triu_indices(function.n_bits, 1)] / (len(x) / 4)
    return np.abs(overlaps - 1).mean(), overlaps.std()


def test_sph_spheres_hold_half_of_the_rows_and_two_of_them_a_quarter(in_process):
    batch = blobs(2000)
    function = SpH(n_bits=16).fit(Data(cut(batch, 3), in_process))
    np.testing.assert_allclose(function.encode(batch.x).sum(axis=0), 1000, atol=1)
    mean, deviation = overlap_errors(function, batch.x)
    assert mean < 0.101
    assert deviation < 0.151


def test_sph_stops_at_the_published_thresholds():
    excess = np.zeros((5, 5))
    for mean, at in ((0.06, (0, 1)), (0.12, (2, 3))):  # one of 10 pairs is 0.6 off, then two are
        excess[at] = excess[at[::-1]] = 0.6
        assert _error(excess) == pytest.approx(max(mean / 0.10, np.sqrt(0.6 * mean - mean**2) / 0.15))
    assert _error(np.full((5, 5), -0.3)) == pytest.approx(3)


@pytest.mark.parametrize("n_iter", [1, 2, 5])
def test_sph_is_the_published_loop(n_iter, in_process):
    """Pivot by pivot and pair by pair, over the vectors themselves."""
    batch, n_bits = blobs(201), 6
    data = Data(cut(batch, 3), in_process)
    x, first = batch.x.astype(np.float64), data.reduce(Sample(5 * n_bits, 0)).x.astype(np.float64)
    pivots = first[np.random.default_rng(0).integers(len(first), size=(n_bits, 5))].mean(axis=1)
    target, seen = len(x) / 4, []
    for _ in range(n_iter):
        distances = np.linalg.norm(x[:, None] - pivots, axis=2)
        radii = np.median(distances, axis=0)
        inside = distances <= radii
        overlap = {(i, j): (inside[:, i] & inside[:, j]).sum() for i in range(n_bits) for j in range(i)}
        excess = np.array(list(overlap.values())) / target - 1
        seen.append((max(np.abs(excess).mean() / 0.1, excess.std() / 0.15), radii, pivots.copy()))
        forces = np.zeros_like(pivots)
        for (i, j), o in overlap.items():
            force = (o - target) / target * (pivots[i] - pivots[j]) / 2
            forces[i] += force / n_bits
            forces[j] -= force / n_bits
        pivots = pivots + forces
    assert min(error for error, _, _ in seen) > 1  # none of the rounds is good enough to stop at
    _, radii, pivots = min(seen, key=lambda state: state[0])
    function = SpH(n_bits, n_iter).fit(data)
    np.testing.assert_allclose(function.centres, pivots, atol=1e-5)
    np.testing.assert_allclose(function.radii, radii, rtol=1e-5)


def test_sph_keeps_the_best_round(in_process):
    batch = blobs(500, 3)  # too few dimensions for 32 independent spheres
    data = Data(cut(batch, 2), in_process)
    errors = []
    for n_iter in (1, 3, 10, 30, 100):
        mean, deviation = overlap_errors(SpH(32, n_iter).fit(data), batch.x)
        errors.append(max(mean / 0.10, deviation / 0.15))
    assert errors[-1] > 1
    assert errors[-1] < errors[0]
    assert all(after <= before * 1.02 for before, after in pairwise(errors))  # rows at the spheres are rounded


@pytest.mark.parametrize("batch", [copies(200), copies(1), rows(np.repeat(np.eye(4), 50, axis=0)), blobs(2), blobs(15)])
def test_sph_stops_if_no_spheres_can_satisfy_it(batch, in_process):
    for n_bits in (1, 16):
        function = SpH(n_bits).fit(Data(cut(batch, 2), in_process))
        assert function.encode(batch.x).shape == (len(batch.ids), n_bits)


def test_sph_on_a_sample_is_the_fit_of_those_rows(in_process):
    batch = blobs(600)
    data = Data(cut(batch, 4), in_process)
    drawn = data.reduce(Sample(200, 0))
    whole, part = SpH(8, sample=200).fit(data), SpH(8).fit(Data([[drawn]], in_process))
    np.testing.assert_allclose(whole.centres, part.centres, atol=1e-5)
    np.testing.assert_allclose(whole.radii, part.radii, rtol=1e-5)


def test_density_sensitive_takes_the_planes_of_largest_entropy(in_process):
    data, n_bits = Data(cut(blobs(), 3), in_process), 16
    function = DensitySensitive(n_bits).fit(data)
    centres, counts = kmeans(data, 24, 3, seed=0)
    planes = {}
    for a in range(24):
        nearest = sorted((np.linalg.norm(centres[a] - centres[b]), b) for b in range(24) if b != a)[:3]
        for _, b in nearest:
            w, middle = centres[min(a, b)] - centres[max(a, b)], (centres[a] + centres[b]) / 2
            above = [w @ centre > w @ middle for centre in centres]
            mass = counts[above].sum() / counts.sum()
            planes[min(a, b), max(a, b)] = scipy.stats.entropy([mass, 1 - mass]), w, w @ middle
    assert len(planes) > n_bits
    best = sorted(entropy for entropy, _, _ in planes.values())[-n_bits:]
    found = []
    for weight, threshold in zip(function.weight.T, function.threshold, strict=True):
        same = [plane for plane in planes.values() if np.allclose(plane[1], weight, atol=1e-5)]
        assert len(same) == 1
        found.append(same[0][0])
        assert threshold == pytest.approx(same[0][2], rel=1e-4, abs=1e-4)
    np.testing.assert_allclose(found[::-1], best, atol=1e-9)


def test_density_sensitive_needs_enough_groups(in_process):
    with pytest.raises(ValueError, match="expected at least n_bits = 16 pairs of adjacent groups, found 6"):
        DensitySensitive(16).fit(Data(cut(blobs(4), 2), in_process))
    with pytest.raises(ValueError, match="found 0"):
        DensitySensitive(16).fit(Data(cut(copies(200), 2), in_process))


@pytest.mark.parametrize("method", [PCAH, DH, SupervisedDH])
def test_more_bits_than_directions_are_refused(method, in_process):
    """Of rows in 10 dimensions the 11th direction is rounding, and another for each cut into shards."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((600, 10)) @ rng.standard_normal((10, 32))).astype(np.float32)
    data = Data([[rows(x, np.eye(3, dtype=np.uint8)[rng.integers(3, size=600)])]], in_process)
    assert method(n_bits=10).fit(data).n_bits == 10
    with pytest.raises(ValueError, match="n_bits <= the directions in which rows vary, found 10 for 11 bits"):
        method(n_bits=11).fit(data)
