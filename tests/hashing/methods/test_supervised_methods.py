"""What the papers prove about KSH, SDH, FSDH, LFH and BRE."""

from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.optimize import check_grad

from hashing.bits import sgn
from hashing.mapreduce import Batch, Data
from hashing.methods import ksh, lfh, sdh
from hashing.methods._bre_sweep import descend
from hashing.methods.bre import BRE
from hashing.methods.fsdh import FSDH, label_codes
from hashing.methods.ksh import KSH
from hashing.methods.lfh import LFH
from hashing.methods.sdh import SDH
from hashing.methods.sh_bdnn import SHBDNN
from hashing.solvers import discrete_descent
from tests.conftest import blobs, cut, mean_average_precision


@pytest.mark.parametrize("method", [KSH, SDH, FSDH, BRE, LFH])
def test_rows_without_labels_are_refused(method, in_process):
    with pytest.raises(ValueError, match="expected rows with labels, found rows without: a supervised method"):
        method(n_bits=8).fit(Data(cut(blobs(50)._replace(y=None), 2), in_process))


@pytest.mark.parametrize("method", [KSH, SDH, FSDH, BRE])
def test_a_row_of_two_labels_is_refused(method, in_process):
    batch = blobs(50)
    batch.y[7] = [1, 1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match=r"^expected one label for each row, found 2 for id 7$"):
        method(n_bits=8).fit(Data(cut(batch, 2), in_process))


def test_lfh_takes_rows_of_several_labels(in_process):
    batch = blobs(200)
    batch.y[::3] = 1  # these are like all others, and the others like their class
    assert LFH(n_bits=8).fit(Data(cut(batch, 2), in_process)).n_bits == 8


@pytest.mark.parametrize("n_bits", [1, 4, 10])
def test_discrete_descent_never_loses_and_stays_at_the_best_of_all_codes(n_bits):
    rng = np.random.default_rng(n_bits)
    root = rng.standard_normal((n_bits, n_bits))
    gram, q = root @ root.T, 3 * rng.standard_normal((40, n_bits))
    every = np.array(list(product([-1.0, 1.0], repeat=n_bits)))

    def costs(b, q):
        return np.einsum("ij,jk,ik->i", b, gram, b) - 2 * (b * q).sum(axis=1)

    start = sgn(rng.standard_normal(q.shape))
    found = discrete_descent(start, q, gram, 10)
    best = np.stack([every[costs(every, row).argmin()] for row in q])
    assert (costs(found, q) <= costs(start, q) + 1e-9).all()
    assert (costs(found, q) >= costs(best, q) - 1e-9).all()
    np.testing.assert_array_equal(discrete_descent(best, q, gram, 10), best)
    if n_bits == 1:
        np.testing.assert_array_equal(found, best)


def test_sdh_lowers_its_objective_in_each_b_step(in_process):
    rng = np.random.default_rng(0)
    y = np.eye(5)[rng.integers(5, size=200)]
    rows = sdh.AnchoredRows(rng.random((200, 9)).astype(np.float32), y, sgn(rng.standard_normal((200, 8))))
    projection, nu, lam = rng.standard_normal((9, 8)), 0.3, 1.0

    def objective(b, weight):
        return ((y - b @ weight) ** 2).sum() + lam * (weight**2).sum() + nu * ((b - rows.phi @ projection) ** 2).sum()

    values = []
    for _ in range(5):
        bb, by, _ = sdh._moments(rows)
        weight = np.linalg.solve(bb + lam * np.eye(8), by)
        values.append(objective(rows.b, weight))
        rows = sdh._codes(rows, weight, projection, nu, 10)
        values.append(objective(rows.b, weight))
    assert all(after <= before + 1e-9 for before, after in pairwise(values))
    assert values[-1] < values[0]


@pytest.mark.parametrize(("n_classes", "n_bits"), [(10, 16), (10, 32), (6, 8), (16, 16)])
def test_fsdh_codes_are_orthogonal_where_there_is_a_hadamard_matrix(n_classes, n_bits):
    codes = label_codes(n_classes, n_bits, 0)
    np.testing.assert_array_equal(codes @ codes.T, n_bits * np.eye(n_classes))


@pytest.mark.parametrize(("n_classes", "n_bits", "distance"), [(10, 8, 4), (10, 12, 6), (10, 24, 12), (100, 32, 12)])
def test_fsdh_codes_are_far_apart_without_a_hadamard_matrix(n_classes, n_bits, distance):
    codes = label_codes(n_classes, n_bits, 0)
    assert set(np.unique(codes)) == {-1, 1}
    apart = (n_bits - codes @ codes.T) / 2 + n_bits * np.eye(n_classes)
    assert apart.min() >= distance


def test_ksh_needs_no_pairs_and_its_gradient_is_that_of_its_cost(in_process):
    rng = np.random.default_rng(0)
    batch = blobs(120)
    bits = sgn(rng.standard_normal((120, 2)))
    phi = rng.standard_normal((120, 7))
    y = batch.y.astype(np.float64)
    d = np.repeat([2.0 * 8, -8.0, -1.0], [6, 1, 2])
    z = np.column_stack([y, np.ones(120), bits])
    rows = Data([[ksh.KernelRows(phi[i::3], z[i::3])] for i in range(3)], in_process)
    residue = 8 * np.where(y @ y.T > 0, 1.0, -1.0) - bits @ bits.T
    for a in rng.standard_normal((3, 7)):
        smooth = np.tanh(phi @ a / 2)
        value, gradient = ksh.cost(rows, d, a)
        assert value == pytest.approx(-smooth @ residue @ smooth, rel=1e-10)
        np.testing.assert_allclose(gradient, -phi.T @ ((residue @ smooth) * (1 - smooth**2)), rtol=1e-10, atol=1e-8)
        error = check_grad(lambda a: ksh.cost(rows, d, a)[0], lambda a: ksh.cost(rows, d, a)[1], a)
        assert error < 1e-4 * np.linalg.norm(gradient)


def likelihood(u, y, columns, beta):
    theta = u @ columns.x.T / 2
    return ((y @ columns.y.T > 0) * theta - np.logaddexp(0, theta)).sum() - (u**2).sum() / (2 * beta)


def test_lfh_climbs_along_the_gradient_of_its_likelihood():
    rng = np.random.default_rng(0)
    y = (rng.random((30, 4)) < 0.4).astype(np.float64)
    columns = Batch(np.arange(12), rng.standard_normal((12, 5)), y[:12])
    u = rng.standard_normal((30, 5))
    flat = partial(np.reshape, shape=(30, 5))
    error = check_grad(
        lambda v: likelihood(flat(v), y, columns, 30.0),
        lambda v: lfh.posterior_gradient(flat(v), y, columns, 30.0).ravel(),
        u.ravel(),
    )
    assert error < 1e-4
    rows, values = lfh.LatentRows(np.arange(30), u, y, u), []
    for _ in range(10):
        values.append(likelihood(rows.u, y, columns, 30.0))
        rows = lfh._step(rows, columns, 30.0)
    assert all(after >= before for before, after in pairwise(values))


@pytest.mark.parametrize("n_rows", [2, 30, 600])
def test_bre_sweeps_to_the_best_of_all_shifts(n_rows):
    rng = np.random.default_rng(0)
    offsets = 1 + rng.permutation(n_rows // 2)[:7]
    for trial in range(20):
        u, column = rng.standard_normal(n_rows), rng.standard_normal(n_rows).astype(np.float32)
        column[5::7] = 0  # rows that no shift turns over
        u[1], column[1] = u[0], column[0]  # and two that turn over at once
        gain = rng.integers(-9, 10, (len(offsets), n_rows)).astype(np.int16)

        def cost(bits, gain=gain):  # of bits (..., n)
            return sum(
                (g * (bits != np.roll(bits, -o, axis=-1))).sum(axis=-1) for g, o in zip(gain, offsets, strict=True)
            )

        before, weight = u.copy(), np.zeros(1)
        decrease = descend(u, weight, column[None], offsets, gain)
        np.testing.assert_allclose(u, before + weight[0] * column)
        assert decrease == cost(before >= 0) - cost(u >= 0), trial
        turns = np.unique((-before[column != 0] / column[column != 0]).astype(np.float32)).astype(np.float64)
        shifts = np.concatenate([[0, turns[0] - 1, turns[-1] + 1], (turns[1:] + turns[:-1]) / 2])
        assert cost(u >= 0) == cost(before + shifts[:, None] * column >= 0).min(), trial


def test_bre_lowers_its_objective(in_process):
    batch = blobs(150)
    first, second = np.triu_indices(150, 1)
    target = (batch.y[first] != batch.y[second]).any(axis=1)

    def objective(n_iter):
        method = BRE(n_bits=8, n_iter=n_iter, n_pairs=150)
        bits = method.fit(Data(cut(batch, 2), in_process)).encode(batch.x)
        return ((target - (bits[first] != bits[second]).mean(axis=1)) ** 2).sum()

    values = [objective(n_iter) for n_iter in (0, 1, 3, 10)]
    assert all(after < before * 1.01 for before, after in pairwise(values))  # pairs are drawn, and counted here once
    assert values[-1] < 0.75 * values[0]


@pytest.mark.parametrize("n", [300, 1000])
def test_sh_bdnn_learns_from_few_rows_as_from_many(n, in_process):
    """Its decay is in proportion to the rows, as the sum over pairs is that it stands beside."""
    database, queries = blobs(n), blobs(100, seed=1, first_id=10**6)
    function = SHBDNN(n_bits=16).fit(Data(cut(database, 3), in_process))
    assert mean_average_precision(function, database, queries) > 0.9


@pytest.mark.parametrize("method", [SDH, FSDH, KSH])
@pytest.mark.parametrize("copies", [2, 10])
def test_duplicate_rows_are_accepted(method, copies, in_process):
    """The nearest anchor of an anchor is one that differs: else kernels are as narrow as rounding."""
    rows, queries = blobs(600 // copies), blobs(100, seed=1, first_id=10**6)
    many = Batch(np.arange(600), np.repeat(rows.x, copies, axis=0), np.repeat(rows.y, copies, axis=0))
    function = method(n_bits=16).fit(Data(cut(many, 3), in_process))
    assert mean_average_precision(function, many, queries) > 0.9


@pytest.mark.parametrize("method", [SDH, FSDH, KSH, BRE])
def test_rows_that_are_all_the_same_are_refused(method, in_process):
    batch = blobs(50)
    with pytest.raises(ValueError, match=r"^expected (anchors|rows) that differ, found the same row [0-9]+ times$"):
        method(n_bits=8).fit(Data(cut(batch._replace(x=0 * batch.x + 3), 2), in_process))
