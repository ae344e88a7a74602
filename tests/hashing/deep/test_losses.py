"""Every term of the deep objectives against a loop in NumPy: values, gradients, and extreme inputs."""

import subprocess
import sys
from itertools import product

import numpy as np
import pytest
import torch

from hashing.deep import losses
from hashing.deep.losses import over_pairs

RNG = np.random.default_rng(5)
N, BITS, C = 7, 6, 4
U = RNG.standard_normal((N, BITS)) * 1.3
Y = (RNG.random((N, C)) < 0.4).astype(float)
Y[Y.sum(1) == 0, 0] = 1
SHARED = Y @ Y.T
S = (SHARED > 0).astype(float)
RANKED = [(i, j, k) for i, j, k in product(range(N), repeat=3) if len({i, j, k}) == 3 and SHARED[i, j] > SHARED[i, k]]
SIGNS = np.where(U >= 0, 1.0, -1.0)
W = RNG.standard_normal((BITS, 9))


def tensor(x, dtype=torch.float64):
    return torch.tensor(np.asarray(x), dtype=dtype)


def softplus(t):
    return np.logaddexp(0, t)


def mean_over_pairs(value):
    return np.mean([value(i, j) for i in range(N) for j in range(N) if i != j])


def mean_over_triplets(value):
    triplets = [(i, j, k) for i in range(N) for j in range(N) for k in range(N) if i != j and S[i, j] > S[i, k]]
    return np.mean([value(*triplet) for triplet in triplets])


def gap(v, i, j):
    return ((v[i] - v[j]) ** 2).sum()


def cosine(a, b):
    return a @ b / np.sqrt(a @ a * (b @ b))


def entropy(p):
    return -sum(value * np.log2(value) for value in p)


def softmax(u):
    return np.exp(u) / np.exp(u).sum(1, keepdims=True)


def coding_rate(u, eps=0.05):
    rows = [row / np.linalg.norm(row) for row in u]
    gram = sum(np.outer(row, row) for row in rows)
    inside = np.eye(BITS) + BITS / (len(u) * eps) * gram
    return -(BITS + len(u)) / (2 * BITS * len(u)) * np.log(np.linalg.eigvalsh(inside)).sum()


def over_triplets(term, values, s, labels):
    gaps, counted = losses.labelled_triplets(values, s, labels)
    return losses.average(term(gaps), counted)


P = softmax(U)
COV = (U - U.mean(0)).T @ (U - U.mean(0)) / N
OFF_DIAGONAL = ~np.eye(BITS, dtype=bool)

# name: (the term of u, what a loop says)
TERMS = {
    "likelihood": (
        lambda u: over_pairs(losses.likelihood(u @ u.T / 2, tensor(S))),
        mean_over_pairs(lambda i, j: softplus(U[i] @ U[j] / 2) - S[i, j] * (U[i] @ U[j]) / 2),
    ),
    "contrastive": (
        lambda u: over_pairs(losses.contrastive(losses.squared_output_distances(u), tensor(S), 11.0)),
        mean_over_pairs(lambda i, j: (gap(U, i, j) if S[i, j] else max(11.0 - gap(U, i, j), 0)) / 2),
    ),
    "cauchy": (
        lambda u: over_pairs(losses.cauchy(3 * (1 - losses.cosine(u)), tensor(S), 2.0)),
        mean_over_pairs(
            lambda i, j: (
                -np.log(
                    2 / (2 + 3 * (1 - cosine(U[i], U[j]))) if S[i, j] else 1 - 2 / (2 + 3 * (1 - cosine(U[i], U[j])))
                )
            )
        ),
    ),
    "weighted": (
        lambda u: over_pairs(losses.pair_weights(tensor(S)) * (u @ u.T)),
        mean_over_pairs(lambda i, j: U[i] @ U[j] / mean_over_pairs(lambda a, b: float(S[a, b] == S[i, j]))),
    ),
    "triplets": (
        lambda u: over_triplets(
            lambda gaps: (1.5 + gaps).clamp(min=0), losses.squared_output_distances(u), tensor(S), Y
        ),
        mean_over_triplets(lambda i, j, k: max(0, 1.5 + gap(U, i, j) - gap(U, i, k))),
    ),
    "ranking": (
        lambda u: (
            losses.ranking_hinge(losses.squared_output_distances(u), tensor(SHARED), 4.0, C)[0]
            @ tensor(range(N)).to(u.dtype)
        ),
        sum(
            i * (2 ** SHARED[i, j] - 2 ** SHARED[i, k]) * max(0, gap(U, i, j) - gap(U, i, k) + 4.0)
            for i, j, k in RANKED
        ),
    ),
    "cross_entropy": (
        lambda u: losses.cross_entropy(u[:, :C], tensor(Y)),
        -np.mean([Y[i] / Y[i].sum() @ (U[i, :C] - np.log(np.exp(U[i, :C]).sum())) for i in range(N)]),
    ),
    "bit_entropy": (lambda u: losses.bit_entropy(u.softmax(1)).sum(), sum(entropy(p) for p in P)),
    "binary_cross_entropy": (
        lambda u: losses.binary_cross_entropy(u[:, :C], tensor(Y)).sum(),
        -sum(np.log(1 / (1 + np.exp(-U[i, k] if Y[i, k] else U[i, k]))) for i in range(N) for k in range(C)),
    ),
    "softmax_binary_cross_entropy": (
        lambda u: losses.softmax_binary_cross_entropy(u[:, :C], tensor(Y)),
        -np.mean(
            [np.log(p if Y[i, k] else 1 - p) for i, row in enumerate(softmax(U[:, :C])) for k, p in enumerate(row)]
        ),
    ),
    "cosine": (
        lambda u: (losses.cosine(u, tensor(W.T, u.dtype)) @ tensor(range(9), u.dtype)).sum(),
        sum(k * cosine(row, W[:, k]) for row in U for k in range(9)),
    ),
    "coding_rate": (losses.coding_rate, coding_rate(U)),
    "quantization": (losses.quantization, np.mean((U - SIGNS) ** 2)),
    "l1_quantization": (losses.l1_quantization, np.mean(np.abs(np.abs(U) - 1))),
    "logcosh_quantization": (losses.logcosh_quantization, np.mean(np.log(np.cosh(np.abs(U) - 1)))),
    "cubic_quantization": (losses.cubic_quantization, np.mean(np.abs(np.abs(U) - 1) ** 3)),
    "cauchy_quantization": (
        lambda u: losses.cauchy_quantization(u, 2.0),
        np.mean([np.log(1 + BITS / 2 * (1 - cosine(np.abs(row), np.ones(BITS))) / 2) for row in U]),
    ),
    "balance": (losses.balance, sum(U[:, k].mean() ** 2 for k in range(BITS))),
    "independence": (losses.independence, ((U.T @ U / N - np.eye(BITS)) ** 2).sum()),
    "decorrelation": (losses.decorrelation, (COV[OFF_DIAGONAL] ** 2).sum() / 2),
    "soft_orthogonality": (losses.soft_orthogonality, ((U.T @ U - np.eye(BITS)) ** 2).sum()),
    "srip": (lambda u: losses.spectral_restricted_isometry(u, 60), np.abs(np.linalg.eigvalsh(U.T @ U) - 1).max()),
    "ortho_reg": (
        lambda u: losses.locally_constrained_decorrelation(u, 3.0),
        sum(softplus(3 * (cosine(U[i], U[j]) - 1)) for i in range(N) for j in range(N) if i != j),
    ),
}
EVERY = pytest.mark.parametrize("name", sorted(TERMS))


@EVERY
def test_each_term_equals_a_loop(name):
    term, expected = TERMS[name]
    assert term(tensor(U)).item() == pytest.approx(expected, rel=1e-9)


@EVERY
def test_gradients_equal_finite_differences(name):
    u = tensor(U).requires_grad_()
    assert torch.autograd.gradcheck(TERMS[name][0], (u,), eps=1e-6, atol=1e-5)


@EVERY
@pytest.mark.parametrize("kind", ["large", "zero", "alike"])
def test_values_and_gradients_are_finite_at_extremes(name, kind):
    u = {"large": 1e4 * SIGNS, "zero": 0 * U, "alike": np.broadcast_to(U[0], U.shape)}[kind]
    u = tensor(u, torch.float32).requires_grad_()
    value = TERMS[name][0](u)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(u.grad).all()


def test_the_coding_rate_is_the_log_determinant_to_ten_digits():
    for n in (2, 50):
        u = np.random.default_rng(n).standard_normal((n, BITS))
        assert losses.coding_rate(tensor(u)).item() == pytest.approx(coding_rate(u), abs=1e-10)


@pytest.mark.parametrize("logits", [[[200.0, -200.0, 0.0]], [[0.0, 0.0, 0.0]], [[7.0]]])
def test_a_certain_class_has_finite_losses_and_gradients(logits):
    for label in range(len(logits[0])):
        x, y = tensor(logits, torch.float32).requires_grad_(), torch.zeros(1, len(logits[0]))
        y[0, label] = 1
        value = losses.softmax_binary_cross_entropy(x, y)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(x.grad).all()
    wrong = losses.softmax_binary_cross_entropy(tensor([[30.0, 0.0]], torch.float32), tensor([[0, 1]], torch.float32))
    assert wrong.item() == pytest.approx(30, rel=1e-5)  # 1 - p would be 0 in float32


def test_the_sign_passes_its_gradient_through():
    u = tensor([-2.0, 0.0, 3.0]).requires_grad_()
    signs = losses.straight_through(u)
    assert signs.tolist() == [-1, 1, 1]
    (signs @ tensor([1.0, 2.0, 3.0])).backward()
    assert u.grad.tolist() == [1, 2, 3]


@pytest.mark.parametrize("t", [-1e4, -3.0, 0.0, 3.0, 1e4])
def test_softplus_and_logcosh_have_exact_gradients_everywhere(t):
    x = tensor([t], torch.float32).requires_grad_()
    losses.softplus(x).backward()
    assert x.grad.item() == pytest.approx(1 / (1 + np.exp(min(-t, 700))), rel=1e-5)
    x.grad = None
    losses.logcosh(x).backward()
    assert x.grad.item() == pytest.approx(np.tanh(t), rel=1e-5)


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("s", [0.0, 1.0])
def test_a_batch_may_lack_similar_or_dissimilar_pairs(n, s):
    u = tensor(RNG.standard_normal((n, BITS)), torch.float32).requires_grad_()
    labels = np.full((n, 1), 1) if s else np.eye(n)
    s = torch.full((n, n), s)
    triplets = over_triplets(lambda gaps: gaps + 1, u @ u.T, s, labels)
    value = over_pairs(losses.pair_weights(s) * losses.likelihood(u @ u.T, s)) + triplets
    value.backward()
    assert triplets == 0
    assert torch.isfinite(value)
    assert torch.isfinite(u.grad).all()


def test_triplets_count_rows_that_rank_above_another():
    assert SHARED[~np.eye(N, dtype=bool)].max() > 1  # or levels would go untested
    _, triplets = losses.ranking_hinge(tensor(U @ U.T), tensor(SHARED), 4.0, C)
    assert triplets.item() == len(RANKED)


def test_weights_of_both_kinds_sum_to_the_number_of_pairs():
    weights, off = losses.pair_weights(tensor(S)).numpy(), ~np.eye(N, dtype=bool)
    for kind in (0, 1):
        assert weights[off & (kind == S)].sum() == pytest.approx(N * (N - 1))


def test_the_sign_of_zero_is_one_and_has_no_gradient():
    u = tensor([-2.0, -0.0, 0.0, 3.0]).requires_grad_()
    assert losses.sgn(u).tolist() == [-1, 1, 1, 1]
    assert not losses.sgn(u).requires_grad


def test_bihalf_gives_each_bit_as_many_ones_as_half_the_rows_and_breaks_ties_by_id():
    ids = RNG.permutation(10 * N)[:N]
    u = tensor(np.round(U)).requires_grad_()  # many outputs are equal
    found = losses.bihalf(u, ids)
    for k in range(BITS):
        order = sorted(range(N), key=lambda i: (-np.round(U)[i, k], ids[i]))
        assert found[order, k].tolist() == [1.0] * (N // 2) + [-1.0] * (N - N // 2)
    other = RNG.permutation(N)  # such as from other workers
    assert torch.equal(losses.bihalf(u[other], ids[other]), found[other])
    (found * tensor(U)).sum().backward()
    assert torch.equal(u.grad, tensor(U))


def test_descended_codes_have_no_bit_left_to_flip():
    gram, q = W @ W.T, 5 * U
    b = losses.descended(tensor(SIGNS), tensor(q), tensor(gram), 20).numpy()
    for k in range(BITS):
        np.testing.assert_array_equal(b[:, k], np.where(q[:, k] - b @ gram[:, k] + b[:, k] * gram[k, k] >= 0, 1, -1))


def test_orthogonality_is_measured_on_the_smaller_side():
    q = np.linalg.qr(RNG.standard_normal((9, BITS)))[0]
    for w in (q, q.T):
        assert losses.soft_orthogonality(tensor(w)).item() == pytest.approx(0, abs=1e-12)
        assert losses.spectral_restricted_isometry(tensor(w)).item() == pytest.approx(0, abs=1e-7)


def test_two_power_iterations_approximate_the_spectral_norm():
    exact = np.abs(np.linalg.eigvalsh(W @ W.T) - 1).max()
    assert 0.7 * exact < losses.spectral_restricted_isometry(tensor(W)).item() <= exact * (1 + 1e-9)


def test_gains_of_hundreds_of_shared_labels_fit_in_float32():
    grades = torch.full((N, N), 500.0)
    grades[:, 0] = 499
    sums, triplets = losses.ranking_hinge(tensor(U @ U.T, torch.float32), grades, 4.0, 500)
    assert torch.isfinite(sums).all()
    assert triplets == 0  # beyond 60 all count alike
    grades[:, 0] = 59
    sums, triplets = losses.ranking_hinge(tensor(U @ U.T, torch.float32), grades, 4.0, 500)
    assert torch.isfinite(sums).all()
    assert triplets > 0


def test_importing_the_terms_needs_no_torch():
    code = "import sys, hashing.deep.losses; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
