"""The families of hash functions that methods learn.

A family is a frozen dataclass whose fields are arrays, numbers and strings; only these are stored: see `serialized`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar

import numpy as np

from .anchors import anchor_weights, rbf, squared_centre_distances
from .functions import Precision, SignFunction, check_finite, check_shape, part_names
from .hamming.layout import read_only
from .mapreduce import Array
from .namespaces import namespace
from .rounding import FUNCTION, anchor_weight_error, distance_error, exp_error, gamma, min_error, product_error

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda u: 0.5 * (1 + namespace(u).tanh(0.5 * u)),  # np.tanh is faster than scipy's expit
    "tanh": lambda u: namespace(u).tanh(u),
    "linear": lambda u: u,
}

MARGINS: dict[Precision, float] = {  # errors of a network on any machine, as multiples of those on this one
    "float32": 64,  # Winograd convolutions have up to 50 times the errors of sums
    "bf16": 4,  # dominated by the rounding of weights and activations, which is the same on any machine
}


@dataclass(frozen=True, eq=False)
class LinearHash(SignFunction):
    """u = xW - t."""

    weight: Array  # (d, n_bits)
    threshold: Array  # (n_bits,)
    rows: ClassVar[int] = 2048

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def values(self, x: Array) -> Array:
        u: Array = x @ self.weight - self.threshold
        return u

    def rounding(self, x: Array) -> Array:
        return product_error(x, self.weight, self.threshold)

    def project(self, x: Array) -> Array:
        """Return u (n, n_bits) float32, raising ValueError as `SignFunction.project` does.

        The order of summation is the same for every row (see hashing.product_kernels), so no block is padded.
        """
        return self._project(x, np.empty((len(x), self._width), np.float32))

    def blocks(self, x: Array) -> Iterator[Array]:
        memory = np.empty((min(len(x), self.rows), self._width), np.float32)
        for start in range(0, len(x), self.rows):
            rows = x[start : start + self.rows]
            yield self._project(rows, memory[: len(rows)], start)

    def _project(self, x: Array, u: Array, first_row: int = 0) -> Array:
        """Return the projections of x in u (n, _width)."""
        from .product_kernels import project

        project(read_only(self.compared(x, first_row)).reshape(-1), self.dim, *self._packed, u.reshape(-1))
        check_finite(u := u[:, : self.n_bits], x, first_row)
        return u

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in part_names(self)}  # without _packed, a copy of them

    @property
    def _width(self) -> int:
        return len(self._packed[1])

    @cached_property
    def _packed(self) -> tuple[Array, Array]:
        from .product_kernels import packed

        return packed(self.weight, self.threshold)


@dataclass(frozen=True, eq=False)
class ThresholdHash(SignFunction):
    """u = x - t for the first m coordinates: all of them for the first row of thresholds, then for the second.

    If `paired`, two adjacent coordinates share the bit of their last threshold: u is the larger of their two values.
    """

    thresholds: Array  # (1 or 2, m), m <= d
    d: int
    paired: bool = False
    rows: ClassVar[int] = 256

    @property
    def shape(self) -> tuple[int, int]:
        levels, m = self.thresholds.shape
        return self.d, (levels - 1) * m + -(-m // 2) if self.paired else levels * m

    def values(self, x: Array) -> Array:
        return self._joined([x[:, : self.thresholds.shape[1]] - level for level in self.thresholds])

    def rounding(self, x: Array) -> Array:
        size = np.abs(x[:, : self.thresholds.shape[1]])
        return self._joined([gamma(1) * (size + np.abs(level)) for level in self.thresholds])

    def _joined(self, levels: list[Array]) -> Array:
        """Return the columns of all levels, those of the last one in pairs if `paired`: the larger of two."""
        xp = namespace(levels[0])
        if self.paired:
            left, right = levels[-1][:, ::2], levels[-1][:, 1::2]
            right = xp.concatenate([right, left[:, right.shape[1] :]], axis=1)  # an odd last column has no partner
            levels = [*levels[:-1], xp.maximum(left, right)]
        columns: Array = xp.concatenate(levels, axis=1)
        return columns


@dataclass(frozen=True, eq=False)
class CosineHash(SignFunction):
    """u = cos(xW + phase) - t."""

    weight: Array  # (d, n_bits)
    phase: Array  # (n_bits,) radians
    threshold: Array  # (n_bits,)

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def values(self, x: Array) -> Array:
        u: Array = namespace(x).cos(x @ self.weight + self.phase) - self.threshold
        return u

    def rounding(self, x: Array) -> Array:
        bound: Array = product_error(x, self.weight, self.phase) + FUNCTION + gamma(1) * (1 + np.abs(self.threshold))
        return bound


@dataclass(frozen=True, eq=False)
class SphericalHash(SignFunction):
    """u = t^2 - |x - p|^2: a bit is 1 inside its sphere."""

    centres: Array  # (n_bits, d)
    radii: Array  # (n_bits,)

    @property
    def shape(self) -> tuple[int, int]:
        return self.centres.shape[1], self.centres.shape[0]

    def values(self, x: Array) -> Array:
        return self.radii**2 - squared_centre_distances(x, self.centres)

    def rounding(self, x: Array) -> Array:
        distances = squared_centre_distances(x, self.centres)
        bound: Array = distance_error(x, self.centres, distances) + gamma(2) * (self.radii**2 + distances)
        return bound


@dataclass(frozen=True, eq=False)
class KernelHash(SignFunction):
    """u = k(x)W - t, with k(x) = exp(-gamma |x - a|^2) for each anchor a."""

    anchors: Array  # (m, d)
    gamma: float
    weight: Array  # (m, n_bits)
    threshold: Array  # (n_bits,)

    @property
    def shape(self) -> tuple[int, int]:
        return self.anchors.shape[1], self.weight.shape[1]

    def values(self, x: Array) -> Array:
        return rbf(x, self.anchors, self.gamma) @ self.weight - self.threshold

    def rounding(self, x: Array) -> Array:
        distances = squared_centre_distances(x, self.anchors)
        error = exp_error(self.gamma * distances, self.gamma * distance_error(x, self.anchors, distances))
        return product_error(rbf(x, self.anchors, self.gamma), self.weight, self.threshold, error)


@dataclass(frozen=True, eq=False)
class AnchorGraphHash(SignFunction):
    """u = z(x)W, where z(x) are the weights of x on its nearest anchors.

    Each of the first l columns defines a second bit: for a column y with thresholds (upper, lower), it is [y >= upper]
    if y >= 0, else [y <= lower].
    """

    anchors: Array  # (m, d)
    sigma: float
    n_nearest: int
    weight: Array  # (m, k)
    split: Array  # (2, l), l <= k: the thresholds (upper, lower) of the second bits; n_bits = k + l

    @property
    def shape(self) -> tuple[int, int]:
        return self.anchors.shape[1], self.weight.shape[1] + self.split.shape[1]

    def values(self, x: Array) -> Array:
        y = anchor_weights(x, self.anchors, self.sigma, self.n_nearest) @ self.weight
        xp, halves = namespace(y), y[:, : self.split.shape[1]]
        upper, lower = self.split
        u: Array = xp.concatenate([y, xp.where(halves >= 0, halves - upper, lower - halves)], axis=1)
        return u

    def rounding(self, x: Array) -> Array:
        distances = squared_centre_distances(x, self.anchors)
        z = anchor_weights(x, self.anchors, self.sigma, self.n_nearest)
        error = distance_error(x, self.anchors, distances)
        error = anchor_weight_error(z, distances, error, self.sigma, self.n_nearest)
        y, bound = z @ self.weight, product_error(z, self.weight, np.zeros(self.weight.shape[1]), error)
        halves, error = np.abs(y[:, : self.split.shape[1]]), bound[:, : self.split.shape[1]]
        error = np.where(halves <= error, np.inf, error + gamma(1) * (halves + np.abs(self.split).max(axis=0)))
        return np.concatenate([bound, error], axis=1)  # u of a second bit jumps where y changes its sign


@dataclass(frozen=True, eq=False)
class ProductHash(SignFunction):
    """The concatenated indices of the nearest centres in M subspaces of (x - mean)R.

    The index of a centre is its code, least significant bit first. u of a bit is the smallest squared distance to a
    centre whose bit is 0, minus the smallest to a centre whose bit is 1. The signs of u are thus the index of the
    nearest centre.
    """

    mean: Array  # (d,)
    rotation: Array  # (d, M * d_s)
    centres: Array  # (M, 2^b, d_s)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rotation.shape[0], self.centres.shape[0] * (self.centres.shape[1].bit_length() - 1)

    def values(self, x: Array) -> Array:
        xp, (m, k, width) = namespace(x), self.centres.shape
        parts = ((x - self.mean) @ self.rotation).reshape(len(x), m, width)
        u = []
        for s in range(m):
            distances = squared_centre_distances(parts[:, s], self.centres[s])
            for j in range(k.bit_length() - 1):
                one = (np.arange(k) >> j & 1).astype(bool)
                u.append(xp.amin(distances[:, ~one], axis=1) - xp.amin(distances[:, one], axis=1))
        stacked: Array = xp.stack(u, axis=1)
        return stacked

    def rounding(self, x: Array) -> Array:
        m, k, width = self.centres.shape
        x = x - self.mean
        parts = (x @ self.rotation).reshape(len(x), m, width)
        errors = product_error(x, self.rotation, np.zeros(m * width)).reshape(parts.shape)
        bounds = []
        for s in range(m):
            distances = squared_centre_distances(parts[:, s], self.centres[s])
            error = distance_error(parts[:, s], self.centres[s], distances, errors[:, s])
            for j in range(k.bit_length() - 1):
                one = (np.arange(k) >> j & 1).astype(bool)
                bound = sum(min_error(distances[:, side], error[:, side]) for side in (~one, one))
                bounds.append(bound + gamma(1) * distances.max(axis=1))
        return np.stack(bounds, axis=1)


@dataclass(frozen=True, eq=False)
class NetworkHash(SignFunction):
    """u = the outputs of a perceptron: each layer is hW + b, with an activation after each but the last."""

    weights: tuple[Array, ...]  # (d, h1), (h1, h2), ..., (h, n_bits)
    biases: tuple[Array, ...]  # (h1,), ..., (n_bits,)
    activation: str  # a key of ACTIVATIONS

    @property
    def shape(self) -> tuple[int, int]:
        return self.weights[0].shape[0], self.weights[-1].shape[1]

    def values(self, x: Array) -> Array:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = ACTIVATIONS[self.activation](x @ weight + bias)
        return x @ self.weights[-1] + self.biases[-1]

    def rounding(self, x: Array) -> Array:
        error: Array | float = 0.0
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            error = product_error(x, weight, bias, error) + 2 * FUNCTION  # no activation is steeper than 1
            x = ACTIVATIONS[self.activation](x @ weight + bias)
        return product_error(x, self.weights[-1], self.biases[-1], error)


@dataclass(frozen=True, eq=False)
class DeepHash(SignFunction):
    """u = the outputs of a network of hashing.deep.networks, in evaluation mode, on the CPU."""

    parameters: tuple[Array, ...]  # in the order of the network's state_dict
    network: str
    d: int
    length: int  # n_bits
    views: int = 1
    split: int = 0  # dimension of the first view, where there are two
    hash_layer: str = "linear"
    rows: ClassVar[int] = 128  # activations of images are large, and a single query takes as long as a block

    @property
    def shape(self) -> tuple[int, int]:
        return self.d, self.length

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of the function, by which equal copies in a process share one network."""
        content = sha256(repr((self.network, self.shape, self.views, self.split, self.hash_layer)).encode())
        for part in self.parameters:
            content.update(part.data)
        return content.hexdigest()

    @property
    def architecture(self) -> tuple[Any, ...]:
        """Return the arguments of `networks.build`."""
        return self.network, self.d, self.length, self.views, self.split, self.hash_layer

    def values(self, x: Array) -> Array:
        from .deep import fitted

        return fitted.evaluated(fitted.shared_network(self.digest, self.parameters, *self.architecture), x)

    def on_device(self, device: str, precision: Precision) -> Callable[[Any], Any]:
        from .deep import fitted

        return fitted.codes_on_device(fitted.loaded(self.parameters, *self.architecture), device, precision)

    def exact(self, x: Array) -> Array:
        """Return u (n, n_bits) of x (n, d), computed in float64."""
        from .deep import fitted

        x, network = self.compared(x).astype(np.float64), fitted.loaded(self.parameters, *self.architecture).double()
        blocks = [fitted.evaluated(network, x[i : i + self.rows]) for i in range(0, len(x), self.rows)]
        return np.concatenate([np.zeros((0, self.n_bits)), *blocks])

    def rounding(self, x: Array) -> Array:
        return self._measured(x, "float32")[1]

    def undetermined(self, x: Array, precision: Precision = "float32") -> Array:
        check_shape(x, self.dim)
        exact, bound = self._measured(x, precision)
        undetermined: Array = np.abs(exact) <= bound
        return undetermined

    def _measured(self, x: Array, precision: Precision) -> tuple[Array, Array]:
        """Return exact u, and a bound on its rounding errors: a multiple of the largest error on this machine.

        A bound derived from all layers would exceed u itself.
        """
        exact = self.exact(x)
        rounded = self.project(x) if precision == "float32" else self.to("cpu", precision).project(x)
        bound = MARGINS[precision] * np.abs(rounded - exact).max(initial=0)
        return exact, np.full(exact.shape, bound)
