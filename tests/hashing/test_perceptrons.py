"""Gradients against differences, identities against all pairs, discrete steps against enumeration."""

from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest

from hashing import perceptrons
from hashing.mapreduce import Data, Sum
from hashing.methods import ba, uh_bdnn
from hashing.methods.ba import BA
from hashing.methods.dh import DH
from hashing.methods.sh_bdnn import SHBDNN, similarity_loss
from hashing.methods.supervised_dh import SupervisedDH, class_loss
from hashing.methods.uh_bdnn import UHBDNN
from hashing.perceptrons import CodedRows, Network, binary_loss, decay, orthogonality, outputs, spread_loss
from hashing.solvers import best_codes, discrete_descent, lbfgs, ridge
from hashing.statistics import with_ones
from tests.conftest import blobs, cut

RNG = np.random.default_rng(0)
N, D, K, C = 40, 7, 4, 3
LABELS = RNG.integers(C, size=N)
ROWS = CodedRows(
    np.arange(N), RNG.standard_normal((N, D)), np.eye(C)[LABELS], RNG.choice([-1.0, 1.0], (N, K)).astype(np.int8)
)
BINARY = {"fidelity": 0.3, "independence": 0.7, "balance": 0.2}
LOSSES = {
    "UH-BDNN": (partial(binary_loss, **BINARY), partial(decay, weight=0.1), "linear"),
    "SH-BDNN": (partial(similarity_loss, similarity=0.4, **BINARY), partial(decay, weight=0.1), "linear"),
    "DH": (partial(spread_loss, variance=0.8), partial(orthogonality, orthogonal=0.3, decay=0.2), "tanh"),
    "SupervisedDH": (
        partial(class_loss, variance=0.8, separation=0.6), partial(orthogonality, orthogonal=0.3, decay=0.2), "tanh",
    ),
}  # fmt: skip


def network(last="linear", seed=1):
    rng = np.random.default_rng(seed)
    sizes = (D, 6, 5, K)
    weights = tuple(rng.standard_normal(shape) for shape in pairwise(sizes))
    hidden = "sigmoid" if last == "linear" else "tanh"
    return Network(weights, tuple(0.1 * rng.standard_normal(size) for size in sizes[1:]), (hidden, hidden, last))


def data(in_process, rows=ROWS):
    """The rows in two shards, one of them of two batches, one of these empty."""
    parts = [
        CodedRows(*(None if part is None else part[keep] for part in rows)) for keep in (slice(0, 15), slice(15, None))
    ]
    return Data([[parts[0]], [parts[1], CodedRows(*(None if part is None else part[:0] for part in rows))]], in_process)


@pytest.mark.parametrize("codes", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_differences(name, codes, in_process):
    loss, penalty, last = LOSSES[name]
    rows = ROWS._replace(b=ROWS.b if codes else None, y=ROWS.y if name in ("SH-BDNN", "SupervisedDH") else None)
    net = network(last)
    fn = partial(perceptrons.value_and_gradient, rows=data(in_process, rows), network=net, loss=loss, penalty=penalty)
    theta = net.flat()
    _, gradient = fn(theta)
    assert len(gradient) == len(theta)
    for i in range(len(theta)):  # every weight and every bias
        step = np.zeros_like(theta)
        step[i] = 1e-5
        slope = (fn(theta + step)[0] - fn(theta - step)[0]) / 2e-5
        assert slope == pytest.approx(gradient[i], rel=1e-6, abs=1e-6 * np.abs(gradient).max())


def test_a_network_is_a_vector_and_a_hash_function():
    net = network()
    again = net.at(net.flat())
    for ours, theirs in zip((*net.weights, *net.biases), (*again.weights, *again.biases), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    raw = RNG.standard_normal((9, 10)).astype(np.float32)
    inputs = perceptrons.Inputs(RNG.standard_normal(10), RNG.standard_normal((10, D)))
    expected = net.forward((raw - inputs.mean) @ inputs.basis)[-1]
    np.testing.assert_allclose(inputs.fold(net).project(raw), expected, rtol=1e-4, atol=1e-4)


def test_rotating_the_outputs_only_changes_their_distance_from_codes(in_process):
    rows, net = data(in_process), network()
    rotated = perceptrons.rotated(rows, net)
    loss = partial(similarity_loss, similarity=0.4, fidelity=0.0, independence=0.7, balance=0.2)
    before, after = (
        perceptrons.value_and_gradient(n.flat(), rows, n, loss, partial(decay, weight=0.1))[0] for n in (net, rotated)
    )
    assert after == pytest.approx(before, rel=1e-12)
    far, near = (n.forward(ROWS.x)[-1] for n in (net, rotated))
    assert np.abs(near).sum() > np.abs(far).sum()  # |H - sgn(H)| of a rotated H falls as <H, sgn(H)> rises


def test_the_similarity_loss_is_that_of_all_pairs():
    net = network()
    h = net.forward(ROWS.x)[-1]
    dense = np.where(LABELS[:, None] == LABELS, 1.0, -1.0)
    weights = {"fidelity": 0.0, "independence": 0.0, "balance": 0.0}
    value, by = similarity_loss(outputs(ROWS, net), similarity=0.4, **weights)
    assert value == pytest.approx(0.4 / (2 * N) * ((h @ h.T / K - dense) ** 2).sum(), rel=1e-10)
    expected = 0.4 / (2 * N) * 4 / K * (h @ h.T / K - dense) @ h
    np.testing.assert_allclose(h @ (by.gram + by.gram.T) + by.total + ROWS.y @ by.classes, expected, rtol=1e-10)


def test_the_binary_loss_is_that_of_the_paper():
    h, b = network().forward(ROWS.x)[-1], ROWS.b
    expected = 0.3 / (2 * N) * ((h - b) ** 2).sum() + 0.7 / 2 * ((h.T @ h / N - np.eye(K)) ** 2).sum()
    expected += 0.2 / (2 * N) * (h.sum(axis=0) ** 2).sum()
    assert binary_loss(outputs(ROWS, network()), **BINARY)[0] == pytest.approx(expected, rel=1e-10)


def test_the_scatters_are_those_of_all_pairs():
    net = network("tanh")
    h = net.forward(ROWS.x)[-1]
    sums = outputs(ROWS._replace(b=None), net)
    distances = ((h[:, None] - h) ** 2).sum(axis=-1)
    same = LABELS[:, None] == LABELS
    within = distances[same & ~np.eye(N, dtype=bool)].mean()
    expected = spread_loss(sums, 0.8)[0] - 0.8 / 2 * 0.6 * (distances[~same].mean() - within)
    assert class_loss(sums, variance=0.8, separation=0.6)[0] == pytest.approx(expected, rel=1e-10)
    centred = h - h.mean(axis=0)
    spread = ((h - np.sign(h)) ** 2).sum() / (2 * N) - 0.8 / (2 * N) * (centred**2).sum()
    assert spread_loss(sums, 0.8)[0] == pytest.approx(spread, rel=1e-10)


def test_lbfgs_solves_a_quadratic():
    a = RNG.standard_normal((30, 12))
    matrix, target = a.T @ a + np.eye(12), RNG.standard_normal(12)
    found = lbfgs(lambda x: (x @ matrix @ x / 2 - target @ x, matrix @ x - target), np.zeros(12), 200)
    np.testing.assert_allclose(found, np.linalg.solve(matrix, target), atol=1e-4)


def test_ridge_is_least_squares_with_a_free_bias():
    a, target = RNG.standard_normal((50, 4)), RNG.standard_normal((50, 3))
    ones = with_ones(a)
    weight, bias = ridge(ones.T @ ones, ones.T @ target, 0.1)
    stacked = np.vstack([ones, np.sqrt(0.1 * 50) * np.eye(4, 5)])
    expected = np.linalg.lstsq(stacked, np.vstack([target, np.zeros((4, 3))]), rcond=None)[0]
    np.testing.assert_allclose(np.vstack([weight, bias]), expected, atol=1e-10)


def objective(z, q, gram):
    return np.einsum("ij,jk,ik->i", z, gram, z) - 2 * (z * q).sum(axis=1)


def test_the_best_codes_are_the_best_of_all():
    w, q = RNG.standard_normal((6, 9)), 3 * RNG.standard_normal((50, 6))
    every = np.array(list(product([-1.0, 1.0], repeat=6)))
    least = np.stack([objective(np.tile(z, (50, 1)), q, w @ w.T) for z in every]).min(axis=0)
    best = best_codes(q, w @ w.T)
    np.testing.assert_allclose(objective(best, q, w @ w.T), least, rtol=1e-12)
    np.testing.assert_array_equal(discrete_descent(best, q, w @ w.T, 5), best)  # no single flip is better
    assert best_codes(q[:0], w @ w.T).shape == (0, 6)


def test_the_codes_of_the_autoencoder_are_the_best_for_few_bits_and_never_worse_for_many():
    for n_bits in (6, 11):
        x, b = RNG.standard_normal((30, 9)), RNG.choice([-1.0, 1.0], (30, n_bits))
        encoder, decoder = RNG.standard_normal((10, n_bits)), RNG.standard_normal((n_bits, 9))
        bias, mu = RNG.standard_normal(9), 2.0
        h = ba.sgn(with_ones(x) @ encoder)

        def cost(z):
            return ((x - bias - z @ decoder) ** 2).sum(axis=-1) + mu / 4 * ((z - h) ** 2).sum(axis=-1)  # noqa: B023 (called here)

        found = cost(ba.improved_codes(x, b, encoder, decoder, bias, mu))
        every = np.array(list(product([-1.0, 1.0], repeat=n_bits)))
        least = np.stack([cost(np.tile(z, (30, 1))) for z in every]).min(axis=0)
        if n_bits == 6:
            np.testing.assert_allclose(found, least, rtol=1e-10)
        else:
            assert (found <= cost(b) + 1e-9).all()
            assert (found < least + 1e-9).mean() > 0.2  # some rows find the best of all


def fit_parts(in_process, n_bits=12):
    rows, _ = perceptrons.principal_rows(Data(cut(blobs(400), 3), in_process), n_bits, 0.95)
    return perceptrons.with_itq_codes(rows, n_bits, 0)


def stacked(rows, field):
    return np.concatenate([getattr(batch, field) for shard in rows.shards for batch in shard])


def test_no_step_of_uh_bdnn_raises_its_objective(in_process):
    method, rows = UHBDNN(n_bits=12), fit_parts(in_process)
    net = perceptrons.with_code_layer(rows, perceptrons.principal_network(rows, (20, 15), "sigmoid"))
    loss, penalty = partial(binary_loss, **BINARY), partial(decay, weight=method.decay)
    weight, bias = ridge(*rows.reduce(Sum(perceptrons.reconstruction_moments)), method.decay)
    path = []

    def note():
        x, b = stacked(rows, "x"), stacked(rows, "b")
        restored = ((x - b @ weight - bias) ** 2).sum() / (2 * len(x)) + method.decay / 2 * (weight**2).sum()
        path.append(restored + perceptrons.value_and_gradient(net.flat(), rows, net, loss, penalty)[0])

    note()
    for _ in range(3):
        net = perceptrons.train_network(rows, net, loss, penalty, 8)
        note()
        weight, bias = ridge(*rows.reduce(Sum(perceptrons.reconstruction_moments)), method.decay)
        note()
        step = partial(uh_bdnn.restoring, weight=weight, bias=bias, fidelity=BINARY["fidelity"])
        rows = rows.map_rows(partial(perceptrons.update_codes, network=net, step=step))
        note()
    assert (np.diff(path) <= 1e-12).all()
    assert path[-1] < 0.9 * path[0]


@pytest.mark.parametrize("n_bits", [6, 12])
def test_no_step_of_the_autoencoder_raises_its_objective_at_one_mu(n_bits, in_process):
    """With the encoder held: the SVMs lower a bound of the bits they miss, not their number."""
    rows, mu = fit_parts(in_process, n_bits), 0.5
    x = stacked(rows, "x")
    encoder = np.random.default_rng(0).standard_normal((x.shape[1] + 1, n_bits))
    h = ba.sgn(with_ones(x) @ encoder)
    path = []
    for _ in range(4):
        decoder, bias = ridge(*rows.reduce(Sum(perceptrons.reconstruction_moments)), 0.0)
        before = stacked(rows, "b")
        rows = rows.map_rows(partial(ba._update, encoder=encoder, decoder=decoder, bias=bias, mu=mu))
        for b in (before, stacked(rows, "b")):
            path.append(((x - bias - b @ decoder) ** 2).sum() + mu / 4 * ((b - h) ** 2).sum())  # noqa: PERF401 (rows change)
    assert (np.diff(path) <= 1e-9).all()
    assert path[-1] < 0.99 * path[0]


def test_the_gradient_of_the_encoder_equals_differences(in_process):
    rows, scale = data(in_process), np.linspace(0.5, 2, D + 1)[:, None]
    theta = RNG.standard_normal((D + 1) * K)
    _, gradient = ba._machines(theta, rows, scale, 3.0)
    for i in range(len(theta)):
        step = np.zeros_like(theta)
        step[i] = 1e-6
        up, down = (ba._machines(theta + sign * step, rows, scale, 3.0)[0] for sign in (1, -1))
        assert (up - down) / 2e-6 == pytest.approx(gradient[i], rel=1e-6, abs=1e-6 * np.abs(gradient).max())


@pytest.mark.parametrize("method", [UHBDNN, SHBDNN, BA, DH, SupervisedDH])
def test_constant_dimensions_are_accepted_and_constant_rows_without_directions(method, in_process):
    batch = blobs(60)
    flat, constant = np.where(np.arange(32) < 8, 0, batch.x), np.ones_like(batch.x)
    assert method(n_bits=8).fit(Data(cut(batch._replace(x=flat), 2), in_process)).n_bits == 8
    data = Data(cut(batch._replace(x=constant), 2), in_process)
    if method in (DH, SupervisedDH):
        with pytest.raises(
            ValueError, match="expected n_bits <= the directions in which rows vary, found 0 for 8 bits"
        ):
            method(n_bits=8).fit(data)
    else:
        assert method(n_bits=8).fit(data).n_bits == 8
    with pytest.raises(ValueError, match="expected n_bits <= d"):
        method(n_bits=33).fit(Data(cut(batch, 2), in_process))
