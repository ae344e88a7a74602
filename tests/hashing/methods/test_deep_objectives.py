"""The objectives of deep methods, each beside its paper's formula in loops over rows, pairs and triplets."""

from math import log, log2

import numpy as np
import pytest
import torch

from hashing.deep import losses, networks
from hashing.deep.contract import Outputs
from hashing.methods import METHODS

RNG = np.random.default_rng(11)
N, BITS, C = 8, 6, 4
U, V = RNG.standard_normal((2, N, BITS)) * 1.3
Y = (RNG.random((N, C)) < 0.4).astype(float)
Y[3] = 0  # a row without a label
SIMILAR = (Y @ Y.T > 0).astype(float)
PAIRS = [(i, j) for i in range(N) for j in range(N) if i != j]
TRIPLETS = [(i, j, k) for i, j in PAIRS for k in range(N) if SIMILAR[i, j] and not SIMILAR[i, k]]


def objective(method, u, head=None, y=Y):
    tensors = [torch.tensor(part, dtype=torch.float64) for part in (u, y)]
    return method.loss(Outputs(*tensors, torch.zeros(N, 3), np.arange(N), 0.5, None, head, None, y)).item()


def over_pairs(value):
    return np.mean([value(i, j) for i, j in PAIRS])


def over_triplets(value):
    return np.mean([value(*triplet) for triplet in TRIPLETS])


def likelihood(f, g, i, j):
    theta = f[i] @ g[j] / 2
    return np.log1p(np.exp(theta)) - SIMILAR[i, j] * theta


def gap(f, i, j):
    return ((f[i] - f[j]) ** 2).sum()


def sigmoid(u):
    return 1 / (1 + np.exp(-u))


def signs(u):
    return np.where(u >= 0, 1.0, -1.0)


def contrastive(f, i, j):
    return gap(f, i, j) / 2 if SIMILAR[i, j] else max(2 * BITS - gap(f, i, j), 0) / 2


def classification(head, features):
    """Softmax cross-entropy with the labels' shares, 0 of a row without."""
    logits = features @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return np.mean([-(Y[i] / max(1, Y[i].sum())) @ logs[i] for i in range(N)])


def test_dpsh():
    expected = over_pairs(lambda i, j: likelihood(U, U, i, j)) + 0.1 * ((U - signs(U)) ** 2).mean()
    assert objective(METHODS["dpsh"](BITS), U) == pytest.approx(expected)


def test_dbdh_balances_each_code():
    v = np.clip(U, -1, 1)
    expected = over_pairs(lambda i, j: likelihood(v, v, i, j)) + 0.1 * np.mean([row.mean() ** 2 for row in v])
    assert objective(METHODS["dbdh"](BITS), U) == pytest.approx(expected)


def test_lcdsh_keeps_the_similarity_of_outputs_in_codes():
    b = signs(U)

    def value(i, j):
        return likelihood(U, U, i, j) + 3 * (sigmoid(U[i] @ U[j] / 2) - sigmoid(b[i] @ b[j] / 2)) ** 2

    assert objective(METHODS["lcdsh"](BITS), U) == pytest.approx(over_pairs(value))


def test_idhn_grades_pairs_that_share_some_labels():
    v = U / (1 + np.abs(U))
    kinds = set()

    def value(i, j):
        s = Y[i] @ Y[j] / max(1, np.sqrt(Y[i].sum() * Y[j].sum()))
        kinds.add(min(s, 1 - s) > 0.01)
        if min(s, 1 - s) > 0.01:
            return 0.1 * BITS * ((v[i] @ v[j] + BITS) / (2 * BITS) - s) ** 2
        w = 5 * v[i] @ v[j] / BITS
        return np.log1p(np.exp(w)) - round(s) * w

    expected = over_pairs(value) + 0.1 * np.abs(np.abs(v) - 1).mean()
    assert objective(METHODS["idhn"](BITS), U) == pytest.approx(expected)
    assert kinds == {True, False}


def test_dshsd_classifies_and_compares():
    method = METHODS["dshsd"](BITS)
    head = method.head(3, C).double()
    v = np.tanh(U)
    expected = classification(head, v) + 0.05 * over_pairs(lambda i, j: contrastive(v, i, j))
    assert objective(method, U, head) == pytest.approx(expected)


def test_adsh_fits_the_similarity_by_outputs_and_codes():
    method, z = METHODS["adsh"](BITS), np.tanh(U)
    similar = np.maximum(SIMILAR, np.eye(N))
    s = np.where(similar == 1, 1, -similar.sum() / (1 - similar).sum())

    def value(v):
        fit = np.mean([(v[j] @ z[i] - BITS * s[i, j]) ** 2 / BITS for i in range(N) for j in range(N)])
        return fit + 0.1 * ((v - z) ** 2).mean()

    v = method.codes(torch.tensor(z), method.similarity(torch.tensor(Y))).numpy()
    assert objective(method, U) == pytest.approx(value(v))
    assert value(v) < value(signs(U))
    for i, k in np.ndindex(v.shape):  # no flip of one bit lowers the objective
        v[i, k] *= -1
        assert value(v) > objective(method, U)
        v[i, k] *= -1


def test_bihalf_keeps_cosines_and_passes_gradients_on():
    network = networks.build("linear", 3, BITS).double()
    x = RNG.standard_normal((N, 3))
    method, half = METHODS["bihalf"](BITS), N // 2
    b = np.array([[1.0 if sum(U[:, k] > u) < half else -1.0 for k, u in enumerate(row)] for row in U])

    def cosine(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    u = torch.tensor(U, requires_grad=True)
    out = Outputs(u, None, torch.tensor(x), np.arange(N), 0.5, network, None, None, None)
    loss = method.loss(out)
    pairs = over_pairs(lambda i, j: (cosine(b[i], b[j]) - cosine(x[i], x[j])) ** 2)
    assert loss.item() == pytest.approx(pairs + 3 * ((U - b) ** 2).mean())
    loss.backward()
    codes = torch.tensor(b, requires_grad=True)  # their own bi-half codes, so the second term of the loss is 0
    method.loss(out._replace(u=codes)).backward()
    np.testing.assert_allclose(u.grad.numpy(), codes.grad.numpy() + 6 * (U - b) / (N * BITS))


def test_cibhash_finds_the_other_copy_of_each_row():
    n, p = N // 2, sigmoid(U)
    other = [(i + n) % N for i in range(N)]

    def cosine(i, j):
        return signs(U)[i] @ signs(U)[j] / BITS

    def divergence(p, q):
        return (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum()

    found = [np.exp(cosine(i, other[i]) / 0.3) for i in range(N)]
    among = [sum(np.exp(cosine(i, j) / 0.3) for j in range(N) if j != i) for i in range(N)]
    entropy = -np.mean(np.log(np.array(found) / among))
    away = np.mean([divergence(p[i], p[other[i]]) for i in range(N)])
    method = METHODS["cibhash"](BITS, beta=0.5)
    assert objective(method, U) == pytest.approx(entropy + 0.5 * away)
    u = torch.tensor(U, requires_grad=True)
    out = Outputs(u, None, None, None, 0.5, None, None, None, None)
    METHODS["cibhash"](BITS, beta=0.0).loss(out).backward()
    z = torch.tensor(signs(U), requires_grad=True)
    losses.contrastive_entropy(z, 0.3).backward()
    np.testing.assert_allclose(u.grad.numpy(), z.grad.numpy() * (p * (1 - p)))


def test_dsh_pulls_both_rows_of_a_pair_to_the_corners():
    away = np.abs(np.abs(U) - 1).sum(1)
    expected = over_pairs(lambda i, j: contrastive(U, i, j) + 0.01 * (away[i] + away[j]))
    assert objective(METHODS["dsh"](BITS), U) == pytest.approx(expected)


def test_dch_gives_both_kinds_of_pairs_the_same_weight():
    def distance(a, b):
        return BITS / 2 * (1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    def value(i, j):
        kind = sum(SIMILAR[pair] == SIMILAR[i, j] for pair in PAIRS)
        ratio = distance(U[i], U[j]) / 20
        return len(PAIRS) / kind * np.log1p(ratio if SIMILAR[i, j] else 1 / ratio)

    drawn = np.mean([np.log1p(distance(np.abs(row), np.ones(BITS)) / 20) for row in U])
    assert objective(METHODS["dch"](BITS), U) == pytest.approx(over_pairs(value) + 0.1 * drawn)


def test_ninh_is_steep_in_the_middle():
    def p(s, eps=0.3, leak=0.1):
        if abs(s - 0.5) <= eps:
            return (s - 0.5) / (2 * eps) + 0.5
        return (1 + leak * (s - 0.5 - eps)) if s > 0.5 else leak * (s - 0.5 + eps)

    f = np.vectorize(p)(sigmoid(U))
    expected = over_triplets(lambda i, j, k: max(0, 1 + gap(f, i, j) - gap(f, i, k)))
    assert objective(METHODS["ninh"](BITS), U) == pytest.approx(expected)


def test_drsch_weighs_each_bit():
    method = METHODS["drsch"](BITS, beta=0.5)
    head = method.head(3, C)
    weights = RNG.random(BITS) + 0.5
    with torch.no_grad():
        head[0].copy_(torch.tensor(weights))
    v = head[0].detach().double().numpy() * sigmoid(U)
    expected = over_triplets(lambda i, j, k: max(0, 0.25 * BITS + gap(v, i, j) - gap(v, i, k)))
    expected += 0.5 * over_pairs(lambda i, j: SIMILAR[i, j] * gap(v, i, j))
    assert objective(method, U, head) == pytest.approx(expected)


def test_dtsh():
    def value(i, j, k):
        return np.log1p(np.exp(0.5 * BITS - U[i] @ U[j] / 2 + U[i] @ U[k] / 2))

    expected = over_triplets(value) + 0.1 * ((U - signs(U)) ** 2).mean()
    assert objective(METHODS["dtsh"](BITS), U) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["dlbhc", "dhln", "itdh"])
def test_classifier_heads_read_the_units(name):
    method = METHODS[name](BITS)
    head = method.head(3, C).double()
    units = sigmoid(U)
    expected = {
        "dlbhc": lambda: classification(head, units),
        "dhln": lambda: classification(head, units) - 0.5 * ((units - 0.5) ** 2).mean(),
        "itdh": lambda: classification(head, U) + over_pairs(lambda i, j: likelihood(U, U, i, j))
        + 0.1 * ((U - signs(U)) ** 2).mean(),
    }[name]()  # fmt: skip
    assert objective(method, U, head) == pytest.approx(expected)


def test_subic_sharpens_each_block_and_spreads_over_all_rows():
    method = METHODS["subic"](BITS, units=3, sharp=0.3, spread=0.7)
    head = method.head(3, C).double()
    p = np.exp(U.reshape(N, 2, 3))
    p /= p.sum(2, keepdims=True)
    sharp = np.mean([[-(q * np.log2(q)).sum() for q in row] for row in p]) / log2(3)
    mean = p.mean(0)
    spread = np.mean([-(q * np.log2(q)).sum() for q in mean]) / log2(3)
    expected = classification(head, p.reshape(N, BITS)) / log(C) + 0.3 * sharp - 0.7 * spread
    assert objective(method, U, head) == pytest.approx(expected)


def test_dmvh_compares_both_views():
    f = U + V
    expected = over_pairs(lambda i, j: contrastive(f, i, j) / BITS) + 0.1 * ((f - signs(f)) ** 2).mean()
    assert objective(METHODS["dmvh"](BITS), np.hstack([U, V])) == pytest.approx(expected)


def test_prdh_compares_views_with_each_other_and_themselves():
    expected = np.mean([likelihood(U, V, i, j) for i in range(N) for j in range(N)])
    expected += over_pairs(lambda i, j: likelihood(U, U, i, j) + likelihood(V, V, i, j))
    b = signs(U + V)
    for f in (U, V):
        cov = np.cov(f.T, bias=True)
        apart = sum(cov[a, b] ** 2 for a in range(BITS) for b in range(BITS) if a != b) / 2
        expected += 0.01 * apart / BITS + 0.1 * (((b - f) ** 2).mean() + (f.mean(0) ** 2).mean())
    assert objective(METHODS["prdh"](BITS), np.hstack([U, V])) == pytest.approx(expected)


def centred(name):
    """A method, its head, the targets of the rows, and the mean over the rows that have labels."""
    method = METHODS[name](BITS)
    head = method.head(3, C).double()
    t, ties = head.centres.numpy(), head.ties.numpy()
    codes = [np.where(y @ t == 0, ties, np.sign(y @ t)) for y in Y]
    return method, head, codes, lambda value: np.mean([value(i) for i in range(N) if Y[i].any()])


def test_csq_and_dpn_learn_the_centres_bit_by_bit():
    method, head, codes, mean = centred("csq")
    v = np.tanh(U)

    def cross_entropy(i):
        p, t = (v[i] + 1) / 2, (codes[i] + 1) / 2
        return -np.mean(t * np.log(p) + (1 - t) * np.log(1 - p))

    expected = mean(cross_entropy) + 0.05 * ((np.abs(v) - 1) ** 2).mean()
    assert objective(method, U, head) == pytest.approx(expected)
    method, head, codes, mean = centred("dpn")
    expected = mean(lambda i: np.mean([max(0, 1 - u * t) for u, t in zip(U[i], codes[i], strict=True)]))
    assert objective(method, U, head) == pytest.approx(expected)


def test_greedyhash_classifies_signs():
    method = METHODS["greedyhash"](BITS)
    head = method.head(3, C).double()
    assert head.bias is None
    logits = signs(U) @ head.weight.detach().numpy().T
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    classes = np.mean([-(Y[i] / max(1, Y[i].sum())) @ logs[i] for i in range(N)])
    expected = classes + 0.1 * (np.abs(np.abs(U) - 1) ** 3).mean()
    assert objective(method, U, head) == pytest.approx(expected)


def cosines(f, g):
    return np.array([[a @ b / np.sqrt(a @ a * (b @ b)) for b in g] for a in f])


def test_orthohash_subtracts_a_margin_from_the_cosine_of_each_label():
    method, head, _, _ = centred("orthohash")
    logits = np.sqrt(BITS) * (cosines(U, head.centres.numpy()) - 0.2 * Y)
    logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    expected = np.mean([-(Y[i] / max(1, Y[i].sum())) @ logs[i] for i in range(N)])
    assert objective(method, U, head) == pytest.approx(expected)


def test_hyp2_repels_pairs_of_several_labels_that_share_none():
    method = METHODS["hyp2"](BITS, beta=0.7)
    head = method.head(3, C).double()
    to_proxies, pairs = cosines(U, head.weight.detach().numpy()), cosines(U, U)
    zeta = 1 - 2 * 3 / BITS  # four codes of 6 bits differ in at least 3
    y = Y.copy()
    y[0], y[1] = [1, 1, 0, 0], [0, 0, 1, 1]
    cells = [(i, c) for i in range(N) for c in range(C)]
    several = [(i, j) for i, j in PAIRS if min(y[i].sum(), y[j].sum()) > 1 and not y[i] @ y[j]]
    expected = np.mean([1 - to_proxies[cell] for cell in cells if y[cell]])
    expected += np.mean([max(0, to_proxies[cell] - zeta) for cell in cells if not y[cell]])
    expected += 0.7 * np.mean([max(0, pairs[pair] - zeta) for pair in several])
    assert objective(method, U, head, y) == pytest.approx(expected)


def test_mds_compares_rows_with_centres_and_with_similar_rows():
    method, head, _, _ = centred("mds")
    p = np.exp(np.sqrt(BITS) * cosines(U, head.centres.numpy()))
    p /= p.sum(1, keepdims=True)
    expected = -np.mean([np.log(p[i, c] if Y[i, c] else 1 - p[i, c]) for i in range(N) for c in range(C)])
    pairs = cosines(U, U)
    expected += np.mean([np.log1p(np.exp((1 - pairs[pair]) / 2)) for pair in PAIRS if SIMILAR[pair]])
    expected += 1e-4 * ((np.abs(U) - 1) ** 2).mean()
    assert objective(method, U, head) == pytest.approx(expected)


def test_dfh_draws_codes_to_learned_centres():
    method = METHODS["dfh"](BITS, nu=0.6)
    head = method.head(3, C).double()
    v = head[0].detach().numpy()

    def value(i, j):
        theta = U[i] @ U[j] / 2
        return np.log1p(np.exp(3 - theta if SIMILAR[i, j] else 3 + theta))

    b = np.array(
        [signs(U[i] + 0.6 * sum((Y[i, c] * signs(v[:, c]) for c in range(C)), np.zeros(BITS))) for i in range(N)]
    )
    assert (b != signs(U)).any()
    products = [v[:, i] @ v[:, j] / BITS - (1 if i == j else -1) for i in range(C) for j in range(C)]
    expected = over_pairs(value) + 0.5 * ((b - U) ** 2).mean() + np.mean([(v @ Y[i] - b[i]) ** 2 for i in range(N)])
    expected += np.mean(np.square(products)) + ((v - signs(v)) ** 2).mean()
    assert objective(method, U, head) == pytest.approx(expected)


def test_crovca_aligns_rows_with_the_mean_of_their_classes():
    method = METHODS["crovca"](BITS)

    def cross_entropy(i):
        classes = [np.mean([U[j] for j in range(N) if Y[j, c]], axis=0) for c in range(C) if Y[i, c]]
        return np.mean(
            [-np.log(sigmoid(u) if m >= 0 else sigmoid(-u)) for u, m in zip(U[i], sum(classes), strict=True)]
        )

    v, n = U / np.linalg.norm(U, axis=1, keepdims=True), N // 2
    copies = v[:n], v[n:]
    rates = [np.linalg.slogdet(np.eye(BITS) + BITS / (n * 0.05) * copy.T @ copy)[1] for copy in copies]
    expected = np.mean([cross_entropy(i) for i in range(N) if Y[i].any()])
    expected -= 0.1 * (BITS + n) / (BITS * n) / 2 * np.mean(rates)
    assert objective(method, U) == pytest.approx(expected)


def test_unsupervised_crovca_aligns_both_copies_of_a_row():
    n, loss = N // 2, 0.0
    for first, second in ((U[:n], U[n:]), (U[n:], U[:n])):
        loss += -np.log(sigmoid(np.where(second >= 0, first, -first))).mean() / 2
        v = first / np.linalg.norm(first, axis=1, keepdims=True)
        rate = (BITS + n) / (BITS * n) / 2 * np.linalg.slogdet(np.eye(BITS) + BITS / (n * 0.05) * v.T @ v)[1]
        loss -= 0.1 * rate / 2
    assert objective(METHODS["crovca_unsupervised"](BITS), U) == pytest.approx(loss)


CENTRES = ["csq", "dpn", "greedyhash", "orthohash", "hyp2", "mds", "dfh", "crovca"]


@pytest.mark.parametrize("name", ["cnnh", "drsch", "subic", "dlbhc", "dhln", "itdh", "dshsd", *CENTRES])
@pytest.mark.parametrize("scale", [0, 1, 1e4])
def test_objectives_with_a_head_are_finite_at_extremes(name, scale):
    method = METHODS[name](8)
    head = method.head(3, C)
    u = torch.tensor(scale * RNG.standard_normal((N, 8)), dtype=torch.float32, requires_grad=True)
    y = torch.tensor(Y, dtype=torch.float32)
    loss = method.loss(Outputs(u, y, torch.zeros(N, 3), np.arange(N), 0.5, None, head, torch.ones(N, 8), Y))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(u.grad).all()
