"""Terms of the objectives of deep methods, as functions of tensors. All are finite for every finite input.

Arguments: u (n, n_bits), real outputs before sgn; s (n, n), 1 if two rows are similar, else 0; y (n, c), multi-hot
labels. A pair is an ordered pair of two different rows. Losses are means over pairs, rows or entries, so that the
meaning of a weight depends neither on the batch size nor on n_bits. Only methods of tensors are called, so that
importing this file does not import torch.

>>> from torch import tensor
>>> u, y = tensor([[2.0], [-2.0], [2.0]]), tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
>>> over_pairs(likelihood(u @ u.T / 2, similarity(y)))  # the loss of DPSH without quantization
tensor(0.1269)
"""

from typing import Any

import numpy as np

from ..mapreduce import Array

Tensor = Any  # torch.Tensor, without importing torch


def sgn(u: Tensor) -> Tensor:
    """Return -1 or +1 for each entry, with sgn(0) = +1. It has no gradient."""
    return (u.detach() >= 0).to(u.dtype) * 2 - 1


def bihalf(u: Tensor, ids: Array) -> Tensor:
    """Return +1 for the floor(n / 2) largest outputs of each bit in the batch and -1 for the others.

    Its gradient is that of u. Among equal outputs the row with the lowest id, of ids (n,), comes first, so the result
    does not depend on the order of the rows. Source: BiHalf, Li & van Gemert, AAAI 2021.
    """
    from .batches import copied

    by_id = copied(np.argsort(ids), u.device)
    largest = by_id[u.detach()[by_id].argsort(dim=0, descending=True, stable=True)[: len(u) // 2]]
    return u.detach().new_full(u.shape, -1.0).scatter(0, largest, 1.0) + (u - u.detach())


def straight_through(u: Tensor) -> Tensor:
    """Return sgn(u) with the gradient of u. Source: GreedyHash, Su et al., NeurIPS 2018, equation 5."""
    return u + (sgn(u) - u).detach()


def softplus(t: Tensor) -> Tensor:
    """Return log(1 + exp(t)) without overflow."""
    return (t + t.abs()) / 2 + t.abs().neg().exp().log1p()  # not clamp(t, 0): its slope at 0 is 1, not 1 / 2


def logcosh(t: Tensor) -> Tensor:
    """Return log(cosh(t)) without overflow."""
    return t.abs() + (-2 * t.abs()).exp().log1p() - 0.6931471805599453


def shared_labels(y: Tensor) -> Tensor:
    """Return the number of labels that two rows share, (n, n)."""
    return y @ y.T


def similarity(y: Tensor) -> Tensor:
    """Return s (n, n): 1 if two rows share a label, else 0."""
    return (shared_labels(y) > 0).to(y.dtype)


def over_pairs(values: Tensor) -> Tensor:
    """Return the mean of values (n, n) over pairs of different rows; 0 for fewer than two rows."""
    n = len(values)
    return (values.sum() - values.diagonal().sum()) / max(1, n * (n - 1))


# --- pairs ---------------------------------------------------------------------------------------------------------


def likelihood(theta: Tensor, s: Tensor) -> Tensor:
    """Return -log p(s | theta) for each pair, p = sigmoid(theta). Source: LFH, Zhang et al., SIGIR 2014, equation 1."""
    return softplus(theta) - s * theta


def pair_weights(s: Tensor) -> Tensor:
    """Return a weight for each pair: |S| / |S1| if similar, otherwise |S| / |S0|.

    S are all pairs, S1 the similar pairs and S0 the others. Source: HashNet, Cao et al., ICCV 2017, equation 2.
    """
    n = len(s)
    pairs = n * (n - 1)
    similar = s.sum() - s.diagonal().sum()
    return pairs * (s / similar.clamp(min=1) + (1 - s) / (pairs - similar).clamp(min=1))


def squared_output_distances(u: Tensor) -> Tensor:
    """Return |u_i - u_j|^2, (n, n)."""
    squares = (u * u).sum(1)
    return (squares[:, None] + squares[None, :] - 2 * u @ u.T).clamp(min=0)


def contrastive(distances: Tensor, s: Tensor, margin: float) -> Tensor:
    """Return d / 2 for similar pairs, max(margin - d, 0) / 2 for others. Source: DSH, Liu et al., CVPR 2016, eq. 2."""
    return 0.5 * (s * distances + (1 - s) * (margin - distances).clamp(min=0))


def lengths(u: Tensor) -> Tensor:
    """Return the Euclidean length of each row, (n,)."""
    return (u * u).sum(1).clamp(min=1e-12).sqrt()


def cosine(u: Tensor, v: Tensor | None = None) -> Tensor:
    """Return the cosines of u_i and v_j, (n, m); without v, those of u_i and u_j."""
    v = u if v is None else v
    return u @ v.T / (lengths(u)[:, None] * lengths(v)[None, :])


def cauchy(distances: Tensor, s: Tensor, gamma: float) -> Tensor:
    """Return -log p for similar pairs and -log(1 - p) for others, with p = gamma / (gamma + d).

    Source: DCH, Cao et al., CVPR 2018, equation 5, rearranged so that it is finite at d = 0.
    """
    return s * (distances / gamma).log1p() + (1 - s) * (gamma / distances.clamp(min=1e-6)).log1p()


def descended(b: Tensor, q: Tensor, gram: Tensor, sweeps: int) -> Tensor:
    """Return codes B (n, n_bits) in {-1, +1} that lower tr(BGB') - 2 tr(BQ'), starting from b, which is overwritten.

    One bit at a time is solved for all rows, with the others fixed. q is (n, n_bits), and gram G (n_bits, n_bits) is
    symmetric. Source: Shen et al., Supervised discrete hashing, CVPR 2015, section 3.3.
    """
    for _ in range(sweeps):
        for k in range(b.shape[1]):
            b[:, k] = sgn(q[:, k] - b @ gram[:, k] + b[:, k] * gram[k, k])
    return b


# --- triplets ------------------------------------------------------------------------------------------------------


def shared_with_others(labels: Array) -> Array:
    """Return the number of labels (n, n) that two rows share, and 0 on the diagonal, for labels (n, c) in NumPy."""
    shared: Array = labels @ labels.T
    np.fill_diagonal(shared, 0)
    return shared


def labelled_triplets(values: Tensor, s: Tensor, labels: Array) -> tuple[Tensor, Tensor]:
    """Return values_ij - values_ik (m, n) for similar pairs i, j and all rows k, and a mask (m, n) of dissimilar i, k.

    The pairs are found in `Outputs.labels`, in host memory: finding them in s would wait for the device.
    """
    from .batches import copied

    i, j = (copied(part, values.device) for part in shared_with_others(labels).nonzero())
    return values[i, j][:, None] - values[i], 1 - s[i]


def average(values: Tensor, where: Tensor) -> Tensor:
    """Return the mean of the values where `where` is 1, not 0; 0 if there are none."""
    return (values * where).sum() / where.sum().clamp(min=1)


def ranking_hinge(distances: Tensor, r: Tensor, margin: float, highest: int) -> tuple[Tensor, Tensor]:
    """Return the sums (n,) of (2^r_ij - 2^r_ik) max(0, d_ij - d_ik + margin) for r_ij > r_ik, and their number.

    d are distances (n, n) and r integer grades (n, n), 0 to `highest`; a row is not a result of its own query. The
    weight 2^r_ij - 2^r_ik is the sum of 2^l over the levels l from r_ik to r_ij - 1. Within a level, the k that
    contribute to j precede d_ij + margin in the sorted row, so each row and level takes n log n steps instead of n^2.
    Grades above 60 count as 60. Source: DSRH, Zhao et al., CVPR 2015, section 3.2.
    """
    from torch import searchsorted
    from torch.nn.functional import pad

    own = r.new_ones(len(r)).diag_embed().bool()
    r = r.clamp(max=60).masked_fill(own, -1)
    reach, sums, triplets = distances + margin, distances.new_zeros(len(r)), r.new_zeros(())
    for level in range(min(highest, 60)):
        lower = (r <= level) & ~own
        nearest, places = distances.masked_fill(~lower, float("inf")).sort(dim=1)
        met = searchsorted(nearest.detach(), reach.detach())
        before = pad(nearest.masked_fill(~lower.gather(1, places), 0).cumsum(1), (1, 0)).gather(1, met)
        sums = sums + 2.0**level * ((met * reach - before) * (r > level)).sum(1)
        triplets = triplets + ((r == level + 1).sum(1) * lower.sum(1)).sum()
    return sums, triplets


# --- classes -------------------------------------------------------------------------------------------------------


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean softmax cross-entropy. The labels of a row are targets with equal weights."""
    target = y / y.sum(1, keepdim=True).clamp(min=1)
    return -(target * logits.log_softmax(1)).sum(1).mean()


def labelled(y: Tensor) -> Tensor:
    """Return 1 for each row with a label, otherwise 0, (n,)."""
    return (y.sum(1) > 0).to(y.dtype)


def softmax_binary_cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Return the mean of -y log p - (1 - y) log(1 - p) over rows and classes, p = softmax(logits).

    1 - p of the most likely class is the sum of the other probabilities, without the rounding error of a difference.
    """
    likeliest = logits.detach().new_zeros(logits.shape).scatter(1, logits.argmax(1, keepdim=True), 1).bool()
    logs = logits.log_softmax(1)
    others = logs.masked_fill(likeliest, -1e4).logsumexp(1, keepdim=True)  # finite if there is one class only
    remaining = others.where(likeliest, logs.exp().clamp(max=0.5).neg().log1p())
    return -(y * logs + (1 - y) * remaining).mean()


def bit_entropy(p: Tensor) -> Tensor:
    """Return -sum p log2 p along the last axis."""
    return -(p * p.clamp(min=1e-12).log2()).sum(-1)


def binary_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of each entry, given logits and targets in [0, 1]."""
    return softplus(logits) - target * logits


def contrastive_entropy(z: Tensor, temperature: float) -> Tensor:
    """Return NT-Xent: the mean cross-entropy of finding each row's other copy by cosine among all other rows of z.

    The first half of z are one copy of each row, the second half the other. Source: SimCLR, Chen et al., ICML 2020.
    """
    n = len(z) // 2
    logits = cosine(z) / temperature
    found = logits.diagonal(n).sum() + logits.diagonal(-n).sum()
    others = logits.masked_fill((logits.detach() * 0).fill_diagonal_(1).bool(), float("-inf"))
    return (others.logsumexp(1).sum() - found) / len(z)


# --- means over all rows, or over the rows where `rows` (n,) is 1, not 0 --------------------------------------------


def mean_of_rows(values: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the mean (k,) of the rows of values (n, k)."""
    return values.mean(0) if rows is None else rows @ values / rows.sum().clamp(min=1)


def mean_of_products(u: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return u'u / n, (n_bits, n_bits)."""
    return u.T @ u / len(u) if rows is None else (u * rows[:, None]).T @ u / rows.sum().clamp(min=1)


# --- quantization: pulls outputs to -1 and +1 ------------------------------------------------------------------------


def quantization(u: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the mean of (u - sgn(u))^2. Source: DPSH, Li, Wang & Kang, IJCAI 2016, equation 4."""
    return mean_of_rows((u - sgn(u)) ** 2, rows).mean()


def l1_quantization(u: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the mean of | |u| - 1 |. Source: DSH, equation 4."""
    return mean_of_rows((u.abs() - 1).abs(), rows).mean()


def logcosh_quantization(u: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the mean of log cosh(|u| - 1). Source: DHN, Zhu et al., AAAI 2016, equation 5."""
    return mean_of_rows(logcosh(u.abs() - 1), rows).mean()


def cubic_quantization(u: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the mean of | |u| - 1 |^3. Source: GreedyHash, Su et al., NeurIPS 2018, equation 6."""
    return mean_of_rows((u.abs() - 1).abs() ** 3, rows).mean()


def cauchy_quantization(u: Tensor, gamma: float = 20.0, rows: Tensor | None = None) -> Tensor:
    """Return the mean over rows of log(1 + d / gamma), d = n_bits / 2 (1 - cos(|u|, 1)). Source: DCH, equation 7."""
    n_bits = u.shape[1]
    cosines = u.abs().sum(1, keepdim=True) / ((u * u).sum(1, keepdim=True).clamp(min=1e-12) * n_bits).sqrt()
    return mean_of_rows((n_bits / 2 * (1 - cosines).clamp(min=0) / gamma).log1p(), rows).mean()


# --- regularizers of outputs and of weights --------------------------------------------------------------------------


def balance(u: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return |mean of u|^2, which is 0 if each bit is 1 in half of the rows."""
    return (mean_of_rows(u, rows) ** 2).sum()


def independence(u: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return |u'u / n - I|^2. Source: UH-BDNN, Do, Doan & Cheung, ECCV 2016, equation 8."""
    gram = mean_of_products(u, rows)
    return (gram**2).sum() - 2 * gram.diagonal().sum() + u.shape[1]


def decorrelation(u: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return DeCov, half the squared covariances of different bits. Source: Cogswell et al., ICLR 2016, equation 2."""
    cov = mean_of_products(u - mean_of_rows(u, rows), rows)
    return 0.5 * ((cov**2).sum() - (cov.diagonal() ** 2).sum())


def coding_rate(u: Tensor, rows: Tensor | None = None, eps: float = 0.05) -> Tensor:
    """Return MCR, -(k + n) / (2 k n) logdet(I + k / (n eps) v'v), with the rows of u (n, k) scaled to length 1 in v.

    It is small if the rows are spread over all directions. Source: CroVCA, Moummad et al., CVPRW 2026; the factor is
    that of their code.
    """
    from torch.linalg import cholesky_ex

    k, n = u.shape[1], len(u) if rows is None else rows.sum().clamp(min=1)
    v = u / lengths(u)[:, None]
    gram = k / eps * mean_of_products(v, rows)
    lower = cholesky_ex(gram + u.new_ones(k).diag()).L  # unlike cholesky, it does not wait for the device
    return -(k + n) / (k * n) * lower.diagonal().log().sum()


def soft_orthogonality(w: Tensor) -> Tensor:
    """Return SO, |W'W - I|^2, or |WW' - I|^2 if W is wide. Source: Bansal, Chen & Wang, NeurIPS 2018, section 3.1."""
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    return (gram**2).sum() - 2 * gram.diagonal().sum() + len(gram)


def spectral_restricted_isometry(w: Tensor, n_iter: int = 2) -> Tensor:
    """Return SRIP, the spectral norm of W'W - I, by n_iter power iterations. Source: Bansal et al., section 3.4."""
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    away = gram - (gram.detach() * 0).fill_diagonal_(1)
    v = away.new_ones(len(away), 1) / len(away) ** 0.5
    for _ in range(n_iter):
        v = away @ v
        v = v / (v * v).sum().clamp(min=1e-24).sqrt()
    return ((away @ v) ** 2).sum().clamp(min=1e-24).sqrt()


def locally_constrained_decorrelation(w: Tensor, reach: float = 10.0) -> Tensor:
    """Return OrthoReg, the sum of log(1 + exp(reach (cos(w_i, w_j) - 1))) over pairs of rows.

    Source: Rodriguez et al., Regularizing CNNs with locally constrained decorrelations, ICLR 2017, equation 5.
    """
    penalties = softplus(reach * (cosine(w) - 1))
    return penalties.sum() - penalties.diagonal().sum()
