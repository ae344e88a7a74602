"""What is specific to each deep method: steps that never raise the objective, weights, and loops as oracles."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from hashing.deep import fitted, networks, regularizers, sgd
from hashing.deep.centres import class_centres
from hashing.deep.contract import Outputs
from hashing.deep.method import Deep, facts
from hashing.mapreduce import Batch, Data
from hashing.methods import METHODS
from hashing.methods.cnnh import factored
from infra.executors import InProcess
from infra.training import Here
from tests.conftest import blobs, cut

RNG = np.random.default_rng(3)
N, BITS, C = 9, 6, 4
U = RNG.standard_normal((N, BITS))
Y = (RNG.random((N, C)) < 0.4).astype(float)
Y[Y.sum(1) == 0, 0] = 1
SHARED = Y @ Y.T


def outputs(u=U, y=Y, x=None, progress=0.5, network=None, head=None, targets=None):
    u = torch.tensor(u, dtype=torch.float64, requires_grad=True)
    x = torch.zeros(len(u), 3) if x is None else x
    labels = torch.tensor(y, dtype=torch.float64)
    return Outputs(u, labels, x, np.arange(len(u)), progress, network, head, targets, y)


# --- CNNH, stage 1 ---------------------------------------------------------------------------------------------------


def test_the_factors_of_cnnh_never_raise_the_objective_of_the_whole_matrix():
    labels = np.unique((RNG.random((12, 5)) < 0.4).astype(int), axis=0)
    counts = RNG.integers(1, 5, len(labels))
    s = np.where(labels @ labels.T > 0, 1.0, -1.0)
    rows = np.repeat(np.arange(len(labels)), counts)  # n rows, and their n x n matrix

    def dense(h):
        return ((s[np.ix_(rows, rows)] - h[rows] @ h[rows].T / 8) ** 2).sum()

    values = [dense(factored(s, counts / counts.sum(), 8, passes, seed=1)) for passes in range(8)]
    assert all(after <= before + 1e-9 for before, after in pairwise(values))
    assert values[-1] < 0.5 * values[0]
    assert np.abs(factored(s, counts / counts.sum(), 8, 8, seed=1)).max() <= 1


def test_cnnh_pulls_each_row_to_the_code_of_its_label_set():
    labels = np.unique(Y, axis=0).astype(np.uint8)
    codes = np.where(RNG.random((len(labels), BITS)) < 0.5, 1.0, -1.0)
    own = [next(i for i, row in enumerate(labels) if (row == y).all()) for y in Y]
    method = METHODS["cnnh"](BITS)
    targets = method.targets(Batch(np.arange(N), np.zeros((N, 3)), Y), (labels, codes))
    loss = method.loss(outputs(targets=torch.tensor(targets)))
    assert loss.item() == pytest.approx(((np.tanh(U) - codes[own]) ** 2).mean())


# --- DSDH ------------------------------------------------------------------------------------------------------------


def dsdh_objective(method, b, u, y, w):
    return method.mu * ((y - b @ w) ** 2).sum() + method.eta * ((b - u) ** 2).sum()


def ridge(method, b, y):
    return np.linalg.solve(b.T @ b + method.nu / method.mu * np.eye(b.shape[1]), b.T @ y)


def test_the_codes_of_dsdh_never_raise_the_objective():
    method = METHODS["dsdh"](BITS, eta=0.5)
    start = np.where(U >= 0, 1.0, -1.0)
    w = ridge(method, start, Y)
    values = [dsdh_objective(method, start, U, Y, w)]
    for sweeps in range(1, 5):
        b = METHODS["dsdh"](BITS, eta=0.5, sweeps=sweeps).codes(torch.tensor(U), torch.tensor(Y)).numpy()
        assert set(np.unique(b)) <= {-1.0, 1.0}
        values.append(dsdh_objective(method, b, U, Y, w))
    assert all(after <= before + 1e-9 for before, after in pairwise(values))
    assert values[-1] < values[0]


@pytest.mark.parametrize("seed", range(10))
def test_the_best_code_of_a_row_is_a_fixed_point_of_dsdh(seed):
    rng = np.random.default_rng(seed)
    method, y = METHODS["dsdh"](BITS, mu=1.0, eta=0.3), np.eye(C)[rng.integers(C, size=1)]
    codes = np.array(list(product([-1.0, 1.0], repeat=BITS)))
    u = rng.standard_normal((1, BITS))
    w = ridge(method, np.where(u >= 0, 1.0, -1.0), y)
    best = min(codes, key=lambda b: dsdh_objective(method, b[None], u, y, w))
    for k in range(BITS):  # no bit of the best can be turned to advantage, and the rule of the sweep agrees
        q, gram = (y @ w.T + method.eta / method.mu * u)[0], w @ w.T
        assert best[k] == np.sign(q[k] - best @ gram[k] + best[k] * gram[k, k])
    found = method.codes(torch.tensor(u), torch.tensor(y)).numpy()[0]
    worse = [
        dsdh_objective(method, (found * np.where(np.arange(BITS) == k, -1, 1))[None], u, y, w) for k in range(BITS)
    ]
    assert dsdh_objective(method, found[None], u, y, w) <= min(worse) + 1e-12


# --- objectives against loops ----------------------------------------------------------------------------------------


def softplus(t):
    return np.logaddexp(0, t)


@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_hashnet_weighs_pairs_and_sharpens_with_progress(progress):
    method = METHODS["hashnet"](BITS)
    g = np.tanh(U * np.sqrt(1 + 50 * progress))
    pairs = [(i, j) for i in range(N) for j in range(N) if i != j]
    similar = sum(SHARED[i, j] > 0 for i, j in pairs)
    total = 0.0
    for i, j in pairs:
        t = 10 / BITS * g[i] @ g[j]
        if SHARED[i, j]:
            jaccard = SHARED[i, j] / np.maximum(Y[i], Y[j]).sum()
            total += len(pairs) / similar * jaccard * (softplus(t) - t)
        else:
            total += len(pairs) / (len(pairs) - similar) * softplus(t)
    assert method.loss(outputs(progress=progress)).item() == pytest.approx(total / len(pairs))


def test_dsrh_ranks_by_the_number_of_shared_labels():
    method = METHODS["dsrh"](BITS, alpha=0.7)
    z = np.tanh(U / 2)
    total, triplets = 0.0, 0
    for q in range(N):
        others = [i for i in range(N) if i != q]
        r = SHARED[q]
        best = sorted((2 ** r[i] - 1 for i in others), reverse=True)
        ideal = max(1, sum(gain / np.log2(place + 2) for place, gain in enumerate(best)))
        for i, j in product(others, others):
            if r[i] > r[j]:
                hinge = max(0, (z[q] @ z[j] - z[q] @ z[i]) / 2 + method.margin * BITS)
                total += (2 ** r[i] - 2 ** r[j]) / ideal * hinge
                triplets += 1
    expected = total / triplets + 0.7 * (z.mean(0) ** 2).sum()
    assert method.loss(outputs()).item() == pytest.approx(expected)


def test_balance_does_not_hold_the_outputs_of_dsrh_at_zero():
    rows = np.repeat(np.eye(4), 8, axis=0)
    codes = np.random.default_rng(0).choice([-1.0, 1.0], (4, BITS))
    out = outputs(0.1 * (1 + rows @ codes), rows)  # what all rows have in common, and what tells classes apart
    METHODS["dsrh"](BITS).loss(out).backward()
    assert (out.u.grad * out.u.detach()).sum() < 0  # a step makes them larger


def test_both_views_of_dmhor_have_the_same_weight_for_any_width():
    method = METHODS["dmhor"](BITS, network="linear", first_view=2, orthogonal=0.0, eta=0.0)
    network, head = networks.build("linear", 9, BITS, 2, 2).double(), torch.nn.Linear(BITS, 9).double()
    x, u = RNG.standard_normal((N, 9)), RNG.standard_normal((N, 2 * BITS))
    f, g = u[:, :BITS], u[:, BITS:]
    expected = 0.0
    for code in (f + g, f, g):
        told = 1 / (1 + np.exp(-code)) @ head.weight.detach().numpy().T + head.bias.detach().numpy()
        expected += ((x - told)[:, :2] ** 2).mean() + ((x - told)[:, 2:] ** 2).mean()
    loss = method.loss(outputs(u, x=torch.tensor(x), network=network, head=head))
    assert loss.item() == pytest.approx(expected)


def test_dhn_and_its_variant_with_squares():
    z = np.tanh(U)
    off = ~np.eye(N, dtype=bool)
    s, inner = SHARED > 0, z @ z.T
    plain = METHODS["dhn"](BITS, quantization=0.0).loss(outputs()).item()
    assert plain == pytest.approx((softplus(inner) - s * inner)[off].mean())
    squared = METHODS["dhn"](BITS, quantization=0.0, squared=True).loss(outputs()).item()
    assert squared == pytest.approx(((inner / BITS - np.where(s, 1, -1)) ** 2)[off].mean())
    drawn = METHODS["dhn"](BITS, quantization=2.0).loss(outputs()).item()
    assert drawn - plain == pytest.approx(2 * np.log(np.cosh(np.abs(z) - 1)).mean())


def test_codes_of_sgh_are_sampled_and_their_gradient_is_that_of_the_probability():
    method = METHODS["sgh"](BITS, alpha=0.0, beta=0.0)
    network, head = networks.build("linear", 3, BITS).double(), torch.nn.Linear(BITS, 3).double()
    x = torch.tensor(RNG.standard_normal((N, 3)))
    out = outputs(x=x, network=network, head=head)
    torch.manual_seed(1)
    p = 1 / (1 + np.exp(-U))
    b = (p >= torch.empty(N, BITS, dtype=torch.float64).uniform_().numpy()).astype(float)
    torch.manual_seed(1)
    loss = method.loss(out)
    away = b @ head.weight.detach().numpy().T + head.bias.detach().numpy() - x.numpy()
    assert loss.item() == pytest.approx((away**2).sum(1).mean() / 2)
    loss.backward()
    np.testing.assert_allclose(out.u.grad, p * (1 - p) * (away @ head.weight.detach().numpy()) / N)


@pytest.mark.parametrize(
    "name",
    ["dpsh", "dhn", "hashnet", "dch", "dsh", "dsdh", "ninh", "dtsh", "dsrh", "dmvh", "prdh", "dbdh", "idhn", "lcdsh",
     "adsh", "cibhash", "crovca_unsupervised"],
)  # fmt: skip
@pytest.mark.parametrize("scale", [0, 1, 1e4])
@pytest.mark.parametrize("y", [np.ones((4, 1)), np.eye(4), np.zeros((4, 2)), np.ones((1, 1))])
def test_objectives_are_finite_at_extremes(name, scale, y):
    method = METHODS[name](BITS)
    y = np.tile(y, (method.copies, 1))
    out = outputs(scale * RNG.standard_normal((len(y), BITS * method.views)), y)
    loss = method.loss(out)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(out.u.grad).all()


@pytest.mark.parametrize("name", ["csq", "dpn", "orthohash"])
def test_rows_of_separable_classes_have_the_codes_of_their_centres(name, in_process):
    rows = blobs(600)
    rows = rows._replace(x=(4 * rows.y @ np.eye(6, 32) + 0.1 * rows.x).astype(np.float32))
    codes = METHODS[name](12, epochs=10, validation=0.0).fit(Data(cut(rows, 3), in_process)).encode(rows.x)
    np.testing.assert_array_equal(codes, (rows.y @ class_centres(6, 12, seed=0)) > 0)


def test_thc_learns_bits_that_split_the_rows_in_half(in_process):
    method = METHODS["thc"](8)
    rows = blobs(c=1)  # in one part: between parts that nothing connects, functions are 0, and half cannot be had
    data = Data(cut(rows, 3), in_process)
    smooth, _, median = method.prepare(data)
    np.testing.assert_allclose((smooth.project(rows.x) >= median).mean(axis=0), 0.5, atol=0.01)


def test_thc_gives_texts_of_one_topic_nearer_codes(in_process):
    rng = np.random.default_rng(0)
    topic = rng.integers(16, size=800)
    words = 1 + 40 * topic[:, None] + np.argsort(rng.random((800, 40)))[:, :4]  # 4 of the 40 words of its topic
    texts = Batch(np.arange(800), words.astype(np.float32))
    method = METHODS["thc"](8, network="text", n_topics=64, n_anchors=80)
    codes = method.targets(texts, method.prepare(Data([[texts]], in_process)))
    loss = method.loss(outputs(np.zeros((800, 8)), targets=torch.tensor(codes, dtype=torch.float64)))
    assert loss.item() == pytest.approx(np.log(2))
    distances, same = (codes[:, None] != codes).sum(axis=2), topic[:, None] == topic
    assert distances[same].mean() < 1 < 3 < distances[~same].mean()


def test_tags_make_thc_split_rows_by_their_labels(in_process):
    rows = blobs(800, c=16)
    rows = rows._replace(x=0.2 * np.random.default_rng(1).standard_normal((800, 4), np.float32))  # nothing to see
    data = Data([[rows]], in_process)
    method = METHODS["thc"](8, network="linear", n_anchors=60, tags=2.0)
    smooth, weights, median = method.prepare(data)
    codes = method.targets(rows._replace(y=rows.y.astype(np.float32)), (smooth, weights, median))
    np.testing.assert_array_equal(codes, smooth.project(np.hstack([rows.x, 2 * rows.y]).astype(np.float32)) >= median)
    distances, same = (codes[:, None] != codes).sum(axis=2), rows.y @ rows.y.T > 0
    assert distances[same].mean() < 2 < 4 < distances[~same].mean()
    with pytest.raises(ValueError, match="expected rows with labels for tags > 0, found rows without"):
        method.prepare(Data([[rows._replace(y=None)]], in_process))


# --- regularisers that any of them may be given --------------------------------------------------------------------

DEEP = {name: method for name, method in METHODS.items() if issubclass(method, Deep)}


def every(terms):
    return "+".join(f"{name}:0.01" for name in terms)


@pytest.mark.parametrize("name", sorted(DEEP))
def test_regularizers_add_to_the_loss_of_any_method(name):
    rows = blobs(128)
    of_outputs = {} if name == "subic" else regularizers.OF_OUTPUTS
    method = DEEP[name](8, regularizers=every(of_outputs | regularizers.OF_WEIGHTS))
    data = Data([[rows]], InProcess())
    known, prepared = facts(data, method), method.prepare(data)
    run = sgd.Run(Here("", lambda *_: None, 1), method, known, {})
    u, targets, y = run.network(torch.tensor(rows.x)), method.targets(rows, prepared), rows.y.astype(np.float32)
    out = Outputs(
        u, torch.tensor(y), torch.tensor(rows.x), rows.ids, 0.5, run.network, run.head,
        None if targets is None else torch.tensor(targets, dtype=u.dtype), y,
    )  # fmt: skip
    torch.manual_seed(0)
    own = method.loss(out)
    torch.manual_seed(0)
    added = (method.objective(out) - own).item()
    views = np.split(u.detach().numpy().astype(float), method.views, axis=1)
    weights = {key: p.detach().double().flatten(1) for key, p in run.network.named_parameters() if p.dim() > 1}
    if "hash.slices.weight" in weights:  # of which each unit sees its own inputs, and shares none with another
        weights |= {f"slice {k}": unit[None] for k, unit in enumerate(weights.pop("hash.slices.weight"))}
    assert len(views) == method.views
    expected = sum(term(torch.tensor(view)).item() for term in of_outputs.values() for view in views)
    expected += sum(term(weight).item() for term in regularizers.OF_WEIGHTS.values() for weight in weights.values())
    assert added == pytest.approx(0.01 * expected, rel=1e-3)  # the difference of two float32
    method.objective(out).backward()
    assert all(torch.isfinite(p.grad).all() for p in run.network.parameters() if p.grad is not None)


def test_rows_without_a_view_do_not_count_in_its_regularizers():
    present, absent, network = torch.randn(9, 8), torch.zeros(5, 8), torch.nn.Linear(8, 8)
    for name in regularizers.OF_OUTPUTS:
        alone, padded = (
            regularizers.penalty({name: 1.0}, views, network)
            for views in ([present], [torch.cat([absent, present]), absent])
        )
        assert torch.allclose(alone, padded)


def test_bits_of_a_block_are_one_of_several_and_not_balanced():
    with pytest.raises(ValueError, match=r"^expected regularizers of weights, .*, found 'so:1\+balance:1'$"):
        DEEP["subic"](8, regularizers="so:1+balance:1")


@pytest.mark.parametrize("name", [*regularizers.OF_OUTPUTS, *regularizers.OF_WEIGHTS])
def test_a_regularizer_lowers_what_it_names(name):
    rows, data = blobs(400), Data(cut(blobs(400), 2), InProcess(cpus=1))

    def penalty(added):
        method = METHODS["dch"](8, network="linear", validation=0.0, lr=0.01, regularizers=added)
        function = method.fit(data)
        network = fitted.with_parameters(networks.build("linear", 32, 8), function.parameters)
        return regularizers.penalty({name: 1.0}, [torch.tensor(function.project(rows.x))], network).item()

    assert penalty(f"{name}:10") < 0.7 * penalty("")


@pytest.mark.parametrize(
    "text", ["decov", "decov:", "decov:x", "decov:nan", "decov:-1", "DeCov:1", "so:1+so:2", "so:1,srip:1"]
)
def test_an_unknown_regularizer_is_refused(text):
    with pytest.raises(ValueError, match=r"^expected regularizers such as decov:0.1\+so:0.01, .*; found '.*'"):
        METHODS["dhn"](8, regularizers=text)
