"""Binary autoencoder."""

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from ..bits import sgn
from ..families import LinearHash
from ..mapreduce import Array, Data, Sum
from ..perceptrons import CodedRows, principal_rows, reconstruction_moments, with_itq_codes
from ..solvers import best_codes, bits_within_dim, discrete_descent, lbfgs, ridge
from ..statistics import moments, with_ones
from . import register


def improved_codes(x: Array, b: Array, encoder: Array, decoder: Array, bias: Array, mu: float) -> Array:
    """Return codes B (n, n_bits) that lower |X - BD - c|^2 + mu / 4 |B - sgn([X 1]A)|^2.

    Up to 8 bits the result is the minimum; beyond, the better of two coordinate descents.
    """
    q, gram = (x - bias) @ decoder.T + mu / 4 * sgn(with_ones(x) @ encoder), decoder @ decoder.T
    if len(gram) <= 8:
        return best_codes(q, gram)
    relaxed = sgn(q @ np.linalg.pinv(gram))
    descents = [discrete_descent(start, q, gram, 20) for start in (b, relaxed)]
    first, second = (np.einsum("ij,ij->i", z @ gram - 2 * q, z) for z in descents)
    return np.where((first <= second)[:, None], *descents)


def _update(rows: CodedRows, encoder: Array, decoder: Array, bias: Array, mu: float) -> CodedRows:
    return rows._replace(b=improved_codes(rows.x, rows.codes, encoder, decoder, bias, mu).astype(np.int8))


def _differing(rows: CodedRows, encoder: Array) -> tuple[int]:
    return ((sgn(with_ones(rows.x) @ encoder) != rows.codes).sum(),)


def _hinge(rows: CodedRows, encoder: Array) -> tuple[float, Array]:
    """Return the sum of the squared hinge losses of [X 1]A against B, and its gradient with respect to A."""
    margin = np.maximum(1 - rows.codes * (rows.x @ encoder[:-1] + encoder[-1]), 0)
    pull = -2 * rows.codes * margin
    return (margin**2).sum(), np.vstack([rows.x.T @ pull, pull.sum(axis=0)])


def _machines(theta: Array, rows: Data[CodedRows], scale: Array, cost: float) -> tuple[float, Array]:
    """Return |A|^2 / 2 + cost sum hinge^2 and its gradient, for the unknowns theta = A / scale.

    In these units L-BFGS needs fewer steps.
    """
    encoder = theta.reshape(len(scale), -1) * scale
    value, gradient = rows.reduce(Sum(partial(_hinge, encoder=encoder)), "encoder")
    weight = np.vstack([encoder[:-1], np.zeros((1, encoder.shape[1]))])
    return (weight**2).sum() / 2 + cost * value, ((weight + cost * gradient) * scale).ravel()


@register
@dataclass(frozen=True)
class BA:
    """Binary autoencoder: codes from which a linear decoder restores the rows, predicted by a linear encoder.

    Minimises |X - BD - c|^2 + mu / 4 |B - sgn([X 1]A)|^2 over codes B, decoder (D, c) and encoder A by the method of
    auxiliary coordinates: mu is multiplied by `growth` after each step, until encoder and codes agree.

    B starts from the codes of ITQ. Each step solves D and c by least squares, A by a linear SVM per bit (L2 penalty,
    squared hinge loss, C = `cost`, all bits in one run of L-BFGS), and B row by row: by enumeration up to 8 bits, by
    flipping bits beyond. The paper starts at mu = 1e-5 and takes 30 steps or more, most of which leave B at its optimum
    without the second term; it also stops early on a validation set, which is not used here.

    Summed over all rows: [B 1]'[B 1] and [B 1]'X, then gradients with respect to A. The codes B are stored with their
    shard.

    Reference: Carreira-Perpinan & Raziperchikolaei, Hashing with binary autoencoders, CVPR 2015, section 3.
    """

    n_bits: int
    mu: float = field(default=0.02, metadata={"above": 0})
    growth: float = 2.0
    n_steps: int = 10
    cost: float = field(default=100.0, metadata={"above": 0})
    share: float = 0.98
    n_iter: int = 15
    seed: int = 0

    check_dim = bits_within_dim

    def fit(self, data: Data) -> LinearHash:
        rows, inputs = principal_rows(data, self.n_bits, self.share)
        rows = with_itq_codes(rows, self.n_bits, self.seed)
        variances = moments(rows).cov.diagonal()
        scale = np.append(np.maximum(variances, 1e-6 * variances.max() or 1.0), 1.0)[:, None] ** -0.5
        theta = np.zeros(len(scale) * self.n_bits)
        for i in range(self.n_steps):
            gram, cross = rows.reduce(Sum(reconstruction_moments), "decoder")
            decoder, bias = ridge(gram, cross, 0.0)
            theta = lbfgs(partial(_machines, rows=rows, scale=scale, cost=self.cost), theta, self.n_iter)
            encoder = theta.reshape(len(scale), -1) * scale
            step = partial(_update, encoder=encoder, decoder=decoder, bias=bias, mu=self.mu * self.growth**i)
            rows = rows.map_rows(step, "codes")
            if rows.reduce(Sum(partial(_differing, encoder=encoder)), "stop")[0] == 0:
                break
        weight = inputs.basis @ encoder[:-1]
        return LinearHash(weight, inputs.mean @ weight - encoder[-1])
