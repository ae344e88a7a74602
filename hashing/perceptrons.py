"""Small perceptrons trained on all rows. Losses depend on sums over the outputs; gradients are back-propagated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .bits import sgn
from .blas import one_blas_thread
from .families import ACTIVATIONS, NetworkHash
from .mapreduce import Array, Batch, Data, Sum
from .solvers import ROWS, lbfgs, principal_directions, quantizing_rotation, ridge, top_eigenvectors
from .statistics import Range, moments, one_hot, with_ones

SLOPES: dict[str, Callable[[Array], Array]] = {  # the derivative of each activation, as a function of its value
    "sigmoid": lambda a: a * (1 - a),
    "tanh": lambda a: 1 - a**2,
    "linear": np.ones_like,
}


class CodedRows(NamedTuple):
    """n rows in memory, with their classes and current codes."""

    ids: Array  # (n,) int64
    x: Array  # (n, r), coordinates on the principal directions
    y: Array | None = None  # (n, c), one-hot classes
    b: Array | None = None  # (n, n_bits) in {-1, +1}, the codes; None: the signs of the outputs

    @property
    def codes(self) -> Array:
        """Return b. Raises ValueError if it is None."""
        if self.b is None:
            raise ValueError("expected rows with codes, found rows without")
        return self.b


@dataclass(frozen=True)
class Network:
    """Layers a(hW + b), each with its activation."""

    weights: tuple[Array, ...]  # (r, h1), (h1, h2), ..., (h, n_bits) float64
    biases: tuple[Array, ...]  # (h1,), ..., (n_bits,)
    activations: tuple[str, ...]  # keys of ACTIVATIONS

    def flat(self) -> Array:
        """Return all parameters as one vector (p,): the weights, then the biases."""
        return np.concatenate([part.ravel() for part in (*self.weights, *self.biases)])

    def at(self, theta: Array) -> Network:
        """Return the network of the same shape with the parameters theta (p,)."""
        parts = [*self.weights, *self.biases]
        split = np.split(theta, np.cumsum([part.size for part in parts])[:-1])
        new = [values.reshape(part.shape) for values, part in zip(split, parts, strict=True)]
        return Network(tuple(new[: len(self.weights)]), tuple(new[len(self.weights) :]), self.activations)

    def forward(self, x: Array) -> list[Array]:
        """Return x (n, r) and the outputs (n, h) of each layer, in the precision of x."""
        values = [x]
        for weight, bias, name in zip(self.weights, self.biases, self.activations, strict=True):
            values.append(ACTIVATIONS[name](values[-1] @ weight.astype(x.dtype) + bias.astype(x.dtype)))
        return values

    def backward(self, values: list[Array], delta: Array) -> Array:
        """Return the gradient (p,), from the values of `forward` and the gradient delta (n, n_bits) of the outputs."""
        weights: list[Array] = []
        biases: list[Array] = []
        for i in reversed(range(len(self.weights))):
            delta = delta * SLOPES[self.activations[i]](values[i + 1])
            weights.insert(0, values[i].T @ delta)
            biases.insert(0, delta.sum(axis=0))
            if i:
                delta = delta @ self.weights[i].T.astype(delta.dtype)
        return Network(tuple(weights), tuple(biases), self.activations).flat()


class OutputSums(NamedTuple):
    """Sums over all rows of their outputs H (n, n_bits), codes B and classes Y: the arguments of a loss.

    A loss returns its derivatives with respect to the fields in the same form, 0 for fields that it does not use.
    """

    n: Any  # rows
    gram: Any  # H'H (n_bits, n_bits)
    total: Any  # H'1 (n_bits,)
    match: Any  # <H, B>
    counts: Any = 0  # Y'1 (c,)
    classes: Any = 0  # Y'H (c, n_bits)
    energy: Any = 0  # Y'(H * H)1 (c,)


Loss = Callable[[OutputSums], tuple[float, OutputSums]]
Penalty = Callable[[Network], tuple[float, Network]]


def outputs(rows: CodedRows, network: Network) -> OutputSums:
    """Return the sums over the outputs of some rows (first pass)."""
    h = network.forward(rows.x)[-1].astype(np.float64)
    match = np.abs(h).sum() if rows.b is None else np.vdot(h, rows.b)
    sums = OutputSums(len(h), h.T @ h, h.sum(axis=0), match)
    if rows.y is None:
        return sums
    return sums._replace(counts=rows.y.sum(axis=0), classes=rows.y.T @ h, energy=rows.y.T @ (h * h).sum(axis=1))


def gradient(rows: CodedRows, network: Network, by: OutputSums) -> tuple[Array]:
    """Return the gradient (p,) of some rows, given the derivatives of the loss by the sums (second pass)."""
    values = network.forward(rows.x)
    h = values[-1].astype(np.float64)
    delta = h @ (by.gram + by.gram.T) + by.total + by.match * (sgn(h) if rows.b is None else rows.b)
    if rows.y is not None:
        delta += rows.y @ by.classes + 2 * h * (rows.y * by.energy).sum(axis=1, keepdims=True)
    return (network.backward(values, delta.astype(rows.x.dtype)),)


def value_and_gradient(
    theta: Array, rows: Data[CodedRows], network: Network, loss: Loss, penalty: Penalty
) -> tuple[float, Array]:
    """Return loss + penalty and its gradient (p,) at theta, exact over all rows: a loss may depend on pairs of rows."""
    network = network.at(theta)
    value, by = loss(OutputSums(*rows.reduce(Sum(partial(outputs, network=network), ROWS), "outputs")))
    (total,) = rows.reduce(Sum(partial(gradient, network=network, by=by), ROWS), "gradient")
    more, by_parameters = penalty(network)
    return value + more, total + by_parameters.flat()


def train_network(
    rows: Data[CodedRows], network: Network, loss: Loss, penalty: Penalty, n_iter: int, units: Any = 1.0
) -> Network:
    """Return the network after at most n_iter iterations of L-BFGS on its parameters divided by `units`."""
    fn = partial(_in_units, units=units, rows=rows, network=network, loss=loss, penalty=penalty)
    return network.at(lbfgs(fn, network.flat() / units, n_iter) * units)


def _in_units(theta: Array, units: Any, **problem: Any) -> tuple[float, Array]:
    value, by_theta = value_and_gradient(theta * units, **problem)
    return value, by_theta * units


def whitening_units(rows: Data[CodedRows], network: Network) -> Array:
    """Return units (p,) for `train_network` that equalize input variances, so that L-BFGS converges faster."""
    deviation = np.sqrt(moments(rows).cov.diagonal())
    first = 1 / np.maximum(deviation / (deviation.max() or 1.0), 0.05)
    units = network.at(np.ones(network.flat().shape))
    units.weights[0][:] = first[:, None]
    return units.flat()


def decay(network: Network, weight: float) -> tuple[float, Network]:
    """Return weight / 2 sum |W|^2 and its derivatives."""
    value = weight / 2 * sum(float(np.vdot(w, w)) for w in network.weights)
    zeros = tuple(np.zeros_like(b) for b in network.biases)
    return value, Network(tuple(weight * w for w in network.weights), zeros, network.activations)


def binary_loss(sums: OutputSums, fidelity: float, independence: float, balance: float) -> tuple[float, OutputSums]:
    """Return fidelity / 2n |H - B|^2 + independence / 2 |H'H / n - I|^2 + balance / 2n |H'1|^2 and its derivatives.

    Source: Do, Doan & Cheung, ECCV 2016, sections 3 and 4.
    """
    n, gram, total, match = sums[:4]
    identity = np.eye(len(gram))
    away = gram / n - identity
    value = fidelity / 2 * (np.trace(gram) / n - 2 * match / n + len(gram))
    value += independence / 2 * (away**2).sum() + balance / (2 * n) * (total**2).sum()
    by_gram = fidelity / (2 * n) * identity + independence / n * away
    return value, OutputSums(0, by_gram, balance / n * total, -fidelity / n)


def spread_loss(sums: OutputSums, variance: float) -> tuple[float, OutputSums]:
    """Return |H - sgn(H)|^2 / 2n - variance / 2n |H - mean|^2 and its derivatives.

    Source: Liong et al., Deep hashing, CVPR 2015, section 3.2.
    """
    n, gram, total, match = sums[:4]
    identity = np.eye(len(gram))
    value = ((1 - variance) * np.trace(gram) - 2 * match + variance * (total @ total) / n) / (2 * n) + len(gram) / 2
    return value, OutputSums(0, (1 - variance) / (2 * n) * identity, variance / n**2 * total, -1 / n)


def orthogonality(network: Network, orthogonal: float, decay: float) -> tuple[float, Network]:
    """Return orthogonal / 2 sum |W'W - I|^2 + decay / 2 sum (|W|^2 + |b|^2) over all layers, and its derivatives.

    Source: as `spread_loss`.
    """
    away = [w.T @ w - np.eye(w.shape[1]) for w in network.weights]
    value = orthogonal / 2 * sum(float((a**2).sum()) for a in away) + decay / 2 * float((network.flat() ** 2).sum())
    by_weights = (2 * orthogonal * w @ a + decay * w for w, a in zip(network.weights, away, strict=True))
    return value, Network(tuple(by_weights), tuple(decay * b for b in network.biases), network.activations)


def hidden_widths(n_bits: int) -> tuple[int, int]:
    """Return the widths of two hidden layers, as in BDNN's code: 90-20, 90-30, 100-40, 120-50 for 8 to 32 bits."""
    return max(90, 40 + 5 * n_bits // 2), 10 + 5 * n_bits // 4


def deep_hashing_widths(n_bits: int) -> tuple[int, int, int]:
    """Return the widths of three layers, each at least n_bits.

    Liong's 60-30-16, 80-50-32 and 100-80-64, interpolated linearly for other numbers of bits.
    """
    h1, h2 = (int(np.interp(n_bits, (16, 32, 64), sizes)) for sizes in ((60, 80, 100), (30, 50, 80)))
    return max(h1, n_bits), max(h2, n_bits), n_bits


class Inputs(NamedTuple):
    """The map from raw vectors to the inputs of a network: (x - mean) basis."""

    mean: Array  # (d,)
    basis: Array  # (d, r), orthogonal directions of equal length

    def fold(self, network: Network) -> NetworkHash:
        """Return the hash function of raw vectors: the map and the network in one perceptron."""
        first = self.basis @ network.weights[0]
        biases = (network.biases[0] - self.mean @ first, *network.biases[1:])
        return NetworkHash((first, *network.weights[1:]), biases, network.activations[0])


def principal_rows(
    data: Data, n_bits: int, share: float, supervised: bool = False, varying: bool = False, dtype: Any = np.float64
) -> tuple[Data[CodedRows], Inputs]:
    """Return `CodedRows` in principal coordinates and the map to them.

    The leading directions that together hold `share` of the variance are used, at least n_bits of them. The other
    directions would take most of the time and hardly change a code.

    All coordinates are divided by the widest range of a dimension, as in BDNN's released code, so that sigmoids do not
    saturate. With `varying`, ValueError is raised unless the rows vary in all these directions: bits that start from
    other directions would learn rounding errors.

    The default is float64, because L-BFGS and the discrete steps amplify rounding errors, which depend on the sharding.
    SH-BDNN amplifies them less, and its fit takes half the time in float32; with 8 bits, it may end in another minimum.
    """
    _, mean, cov = moments(data)
    low, high = data.reduce(Range(), "range")
    with one_blas_thread():
        variances = np.linalg.eigvalsh(cov)[::-1].cumsum()
    r = min(int((variances < share * variances[-1]).sum()) + 1, len(cov))
    directions = (principal_directions if varying else top_eigenvectors)(cov, max(n_bits, r))
    inputs = Inputs(mean, directions / (float((high - low).max()) or 1.0))
    return data.map_rows(partial(_rows, inputs=inputs, supervised=supervised, dtype=dtype), "principal rows"), inputs


def _rows(batch: Batch, inputs: Inputs, supervised: bool, dtype: Any) -> CodedRows:
    x = ((batch.x - inputs.mean) @ inputs.basis).astype(dtype, copy=False)
    return CodedRows(batch.ids, x, one_hot(batch) if supervised else None)


def with_itq_codes(rows: Data[CodedRows], n_bits: int, seed: int) -> Data[CodedRows]:
    """Return `CodedRows` in principal coordinates with the codes of ITQ, sgn(VR), after 50 iterations."""
    rotation = quantizing_rotation(rows.map_rows(partial(_leading, k=n_bits), "leading"), n_bits, 50, seed)
    return rows.map_rows(partial(_rotated_codes, rotation=rotation), "first codes")


def _leading(rows: CodedRows, k: int) -> CodedRows:
    return CodedRows(rows.ids, rows.x[:, :k])


def _rotated_codes(rows: CodedRows, rotation: Array) -> CodedRows:
    return rows._replace(b=sgn(rows.x[:, : len(rotation)] @ rotation).astype(np.int8))


def principal_network(rows: Data[CodedRows], sizes: tuple[int, ...], activation: str, reach: float = 0.0) -> Network:
    """Return a network with layers of the given sizes whose weights are principal directions of the layer's inputs.

    As in BDNN's released code, a layer is at most as wide as its inputs. If `reach` is given, the weights of each layer
    are scaled so that its first output has this standard deviation before the activation.
    """
    network = Network((), (), ())
    for size in sizes:
        _, mean, cov = moments(rows.map_rows(partial(_activate, network=network), "activations"))
        weight = top_eigenvectors(cov, min(size, len(cov)))
        if reach:
            weight *= reach / (np.sqrt(weight[:, 0] @ cov @ weight[:, 0]) or 1.0)
        biases, names = (*network.biases, -mean @ weight), (*network.activations, activation)
        network = Network((*network.weights, weight), biases, names)
    return network


def with_code_layer(rows: Data[CodedRows], network: Network) -> Network:
    """Return the network with another linear layer, the least squares fit of the codes."""
    gram, cross = rows.reduce(Sum(partial(_code_moments, network=network)), "code layer")
    weight, bias = ridge(gram, cross, 1e-5)
    return Network((*network.weights, weight), (*network.biases, bias), (*network.activations, "linear"))


def rotated(rows: Data[CodedRows], network: Network) -> Network:
    """Return the network with its outputs H rotated as in ITQ: |H - B| decreases, H'H keeps its eigenvalues."""
    outputs = rows.map_rows(partial(_activate, network=network), "outputs")
    rotation = quantizing_rotation(outputs, len(network.biases[-1]), 50, None)
    weights, biases = (*network.weights[:-1], network.weights[-1] @ rotation), network.biases[-1] @ rotation
    return Network(weights, (*network.biases[:-1], biases), network.activations)


def _activate(rows: CodedRows, network: Network) -> CodedRows:
    return CodedRows(rows.ids, network.forward(rows.x)[-1])


def _code_moments(rows: CodedRows, network: Network) -> tuple[Array, Array]:
    h = with_ones(network.forward(rows.x)[-1])
    return h.T @ h, h.T @ rows.codes


def reconstruction_moments(rows: CodedRows) -> tuple[Array, Array]:
    """Return [B 1]'[B 1] and [B 1]'X, from which `ridge` fits the linear decoder of the codes."""
    b = with_ones(rows.codes)
    return b.T @ b, b.T @ rows.x


def update_codes(
    rows: CodedRows, network: Network, step: Callable[[CodedRows, Array], Array] | None = None
) -> CodedRows:
    """Return the rows with new codes: step(rows, outputs (n, n_bits)); without a step, the signs of the outputs."""
    h = network.forward(rows.x)[-1].astype(np.float64)
    return rows._replace(b=(step(rows, h) if step else sgn(h)).astype(np.int8))
