"""Fitted hash functions: the families that all methods learn, and their conversion to arrays for storage.

A family is a frozen dataclass whose fields are arrays, numbers and strings; only these are stored.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from .anchors import anchor_weights, rbf, squared_centre_distances
from .mapreduce import Array, Epoch, one_blas_thread
from .namespaces import namespace
from .rounding import (
    FUNCTION,
    anchor_weight_error,
    distance_error,
    exp_error,
    gamma,
    min_error,
    product_error,
)

if TYPE_CHECKING:
    from .device import Batches

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda u: 0.5 * (1 + namespace(u).tanh(0.5 * u)),  # np.tanh is faster than scipy's expit
    "tanh": lambda u: namespace(u).tanh(u),
    "linear": lambda u: u,
}
SMALLEST, LARGEST = 2.0**-100, 2.0**120  # of |x||w|: float32 products may underflow below, and overflow above


Precision = Literal["float32", "bf16"]
MARGINS: dict[Precision, float] = {  # errors of a network elsewhere, as multiples of those here
    "float32": 64,  # Winograd convolutions have up to 50 times the errors of sums
    "bf16": 4,  # the rounding of weights and activations dominates, and is the same everywhere
}
_loading = Lock()


class HashFunction(Protocol):
    """A fitted hash function, from vectors to codes.

    An implementation must be pure and deterministic: the code of a row depends only on that row, not on the other rows
    or their number. It must also be picklable and safe to call from several threads. Subclasses of `SignFunction` are
    all of these and only define `shape` and `values`; only families in this module can be stored::

        @dataclass(frozen=True, eq=False)
        class LinearHash(SignFunction):
            weight: Array  # (d, n_bits)

            @property
            def shape(self): return self.weight.shape
            def values(self, x): return x @ self.weight
    """

    @property
    def n_bits(self) -> int:
        """Return the number of bits of a code."""

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """Return the metrics of the training epochs; empty for methods that are not trained in epochs."""

    @property
    def dim(self) -> int:
        """Return d, the dimension of the vectors that the function takes."""

    def project(self, x: Array) -> Array:
        """Return u (n, n_bits) float32 for vectors x (n, d); the bits are its signs."""

    def blocks(self, x: Array) -> Iterator[Array]:
        """Yield u for successive rows of x, in blocks that fit the cache."""

    def encode(self, x: Array) -> Array:
        """Return bits (n, n_bits) bool for vectors x (n, d); True means +1."""

    def to(self, device: str, precision: Precision = "float32") -> HashFunction:
        """Return the function as torch computes it on a device, such as "cuda"; see `OnDevice`."""

    def undetermined(self, x: Array, precision: Precision = "float32") -> Array:
        """Return which bits (n, n_bits) of vectors x (n, d) may differ between machines, as their u is nearly 0.

        These are the bits whose u, computed exactly, is within the rounding errors of the given precision.
        """


@dataclass(frozen=True, eq=False)
class SignFunction(ABC):
    """h(x) = [u(x) >= 0]; each family defines u in `values`.

    Array fields, and tuples of arrays, are converted to float32.

    Raises
    ------
    ValueError
        If an array has a value that is not finite.
    """

    rows: ClassVar[int] = 4096  # rows per block in `project`
    epochs: tuple[Epoch, ...] = field(
        default=(), kw_only=True, compare=False
    )  # a record of training, not part of the function

    def __post_init__(self) -> None:
        for name in _parts(self):
            value = getattr(self, name)
            if isinstance(value, (np.ndarray, tuple)):
                object.__setattr__(self, name, _finite(name, value))

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Return (d, n_bits)."""

    @property
    def dim(self) -> int:
        return self.shape[0]

    @property
    def n_bits(self) -> int:
        return self.shape[1]

    @abstractmethod
    def values(self, x: Array) -> Array:
        """Return u (rows, n_bits) for one block x (rows, d) float32.

        x may also be a tensor, if `on_device` has copied the arrays: the formula uses what numpy and torch share.
        """

    @abstractmethod
    def rounding(self, x: Array) -> Array:
        """Return a bound (n, n_bits) on the rounding errors of `values` in float32, for x (n, d) float64.

        The bound holds for any order of summation: on any machine, and for any batch size.
        """

    def undetermined(self, x: Array, precision: Precision = "float32") -> Array:
        check_shape(x, self.dim)
        exact = x.astype(np.float32).astype(np.float64)
        with one_blas_thread():
            undetermined: Array = np.abs(self.values(exact)) <= self.rounding(exact)
        return undetermined

    def project(self, x: Array) -> Array:
        """Return u (n, n_bits) float32 for vectors x (n, d).

        The bits of a matrix product depend on its shape and on the number of BLAS threads. So that a row's code does
        not depend on the other rows, u is computed on one thread in blocks of `rows` rows, the last padded with zeros.

        Raises
        ------
        ValueError
            If x has another dimension, or values too large for u to be finite in float32.
        """
        check_shape(x, self.dim)
        u = np.empty((len(x), self.n_bits), np.float32)
        with one_blas_thread():
            for number, block in enumerate(self.blocks(x)):
                u[number * self.rows : (number + 1) * self.rows] = block
        return u

    def blocks(self, x: Array) -> Iterator[Array]:
        """Yield u (rows, n_bits) float32 of `project` for each block of rows; raise ValueError as it does."""
        check_shape(x, self.dim)
        for start in range(0, len(x), self.rows):
            block = np.ascontiguousarray(x[start : start + self.rows], np.float32)
            if (n := len(block)) < self.rows:
                block = np.concatenate([block, np.zeros((self.rows - n, self.dim), np.float32)])
            with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):  # overflow is reported below
                u = np.asarray(self.values(block)[:n], np.float32)
            check_finite(u, block, start)
            yield u

    def encode(self, x: Array) -> Array:
        """Return bits (n, n_bits) bool, the signs of `project`; raise ValueError as it does."""
        bits: Array = self.project(x) >= 0
        return bits

    def to(self, device: str, precision: Precision = "float32") -> HashFunction:
        return OnDevice(self, device, precision)

    def on_device(self, device: str, precision: Precision) -> Callable[[Any], Any]:
        """Return `values` for tensors on a torch device, where this copies the arrays."""
        import torch

        copy = object.__new__(type(self))
        for name in _parts(self):
            value = getattr(self, name)
            if isinstance(value, tuple):
                value = tuple(torch.tensor(part, device=device) for part in value)
            elif isinstance(value, np.ndarray):
                value = torch.tensor(value, device=device)
            object.__setattr__(copy, name, value)
        return copy.values


def check_shape(x: Array, dim: int) -> None:
    """Raise ValueError unless x has the shape (n, dim)."""
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"expected vectors of shape (n, {dim}), found {x.shape}")


def check_finite(u: Array, x: Array, first_row: int = 0) -> None:
    """Raise ValueError if the values u (n, n_bits) of vectors x (n, d) are not all finite, with the number of a row."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(u.sum()):  # fast; it may also overflow
            return
    if len(rows := np.flatnonzero(~np.isfinite(u).all(axis=1))):
        row = int(rows[0])
        most = np.abs(x[row]).max()
        row += first_row
        raise ValueError(f"row {row}: values up to {most:.3g} overflow float32 or are not finite: scale the vectors")


def _parts(family: Any) -> list[str]:
    """Return the names of the fields that define the function and are stored."""
    return [field.name for field in fields(family) if field.compare]


def _finite(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_finite(name, part) for part in value)
    with np.errstate(over="ignore"):
        value = np.ascontiguousarray(value, np.float32)
    if not np.isfinite(value).all():
        raise ValueError(f"{name} has NaN or infinite values: the fit did not converge")
    return value


@dataclass(frozen=True, eq=False)
class LinearHash(SignFunction):
    """u = xW - t."""

    weight: Array  # (d, n_bits)
    threshold: Array  # (n_bits,)
    few_rows: ClassVar[int] = 128  # up to this number, `encode` first tries without a block

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def values(self, x: Array) -> Array:
        u: Array = x @ self.weight
        u -= self.threshold  # in place: memory that is new to the process takes longer than the subtraction
        return u

    def rounding(self, x: Array) -> Array:
        return product_error(x, self.weight, self.threshold)

    def encode(self, x: Array) -> Array:
        """Return the same bits as `SignFunction.encode`; a few rows are not padded to a block.

        In float32, a sum of d products differs from x'w by at most d 2^-24 / (1 - d 2^-24) |x||w|, in whatever order it
        is computed (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1), and the sign of its
        difference from t is exact. Bits further from the threshold than that are certain from sums in float64. If any
        bit is not, all rows are computed in a block.
        """
        if len(x) > self.few_rows or x.shape[1:] != (self.dim,):
            return super().encode(x)
        with np.errstate(over="ignore", invalid="ignore"):
            rows = x.astype(np.float32).astype(np.float64)
            weight, norms = self._in_float64
            u = rows @ weight - self.threshold
            sizes = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None] * norms
        rounding = 1.01 * (self.dim + 4) * 2.0**-24 * (sizes + SMALLEST)
        certain = (abs(u) > rounding) & (sizes < LARGEST)
        return u >= 0 if certain.all() else super().encode(x)

    @cached_property
    def _in_float64(self) -> tuple[Array, Array]:
        """The weight (d, n_bits), and the norms (n_bits,) of its columns."""
        weight = self.weight.astype(np.float64)
        return weight, np.linalg.norm(weight, axis=0)


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

    Each of the first l columns may define a second bit: for a column y with thresholds (upper, lower) it is
    [y >= upper] where y >= 0 and [y <= lower] elsewhere.
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
        return np.concatenate([bound, error], axis=1)  # a second bit jumps where y changes its sign


@dataclass(frozen=True, eq=False)
class ProductHash(SignFunction):
    """The concatenated indices of the nearest centres in M subspaces of (x - mean)R.

    The index of a centre is its code, least significant bit first. u for a bit is the smallest squared distance to a
    centre where that bit is 0, minus the smallest to a centre where it is 1, so its signs are the index of the nearest
    centre.
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
    rows: ClassVar[int] = 128  # activations of images are large, and a single query costs a whole block

    @property
    def shape(self) -> tuple[int, int]:
        return self.d, self.length

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of the function; equal copies in a process share one network by it."""
        content = sha256(repr((self.network, self.shape, self.views, self.split, self.hash_layer)).encode())
        for part in self.parameters:
            content.update(part.data)
        return content.hexdigest()

    @property
    def architecture(self) -> tuple[Any, ...]:
        """Return the arguments of `networks.build`."""
        return self.network, self.d, self.length, self.views, self.split, self.hash_layer

    def values(self, x: Array) -> Array:
        from .deep import networks

        return networks.evaluated(networks.shared_network(self.digest, self.parameters, *self.architecture), x)

    def on_device(self, device: str, precision: Precision) -> Callable[[Any], Any]:
        from .deep import networks

        return networks.on_device(networks.loaded(self.parameters, *self.architecture), device, precision)

    def exact(self, x: Array) -> Array:
        """Return u (n, n_bits) of x (n, d), computed in float64."""
        from .deep import networks

        x, network = x.astype(np.float64), networks.loaded(self.parameters, *self.architecture).double()
        blocks = [networks.evaluated(network, x[i : i + self.rows]) for i in range(0, len(x), self.rows)]
        return np.concatenate([np.zeros((0, self.n_bits)), *blocks])

    def rounding(self, x: Array) -> Array:
        return self._measured(x, "float32")[1]

    def undetermined(self, x: Array, precision: Precision = "float32") -> Array:
        check_shape(x, self.dim)
        exact, bound = self._measured(x, precision)
        undetermined: Array = np.abs(exact) <= bound
        return undetermined

    def _measured(self, x: Array, precision: Precision) -> tuple[Array, Array]:
        """Return exact u, and a bound on its errors: a multiple of the largest error that is found here.

        Bounds over all layers would exceed u itself.
        """
        x = x.astype(np.float32)
        exact = self.exact(x)
        rounded = self.project(x) if precision == "float32" else self.to("cpu", precision).project(x)
        bound = MARGINS[precision] * np.abs(rounded - exact).max(initial=0)
        return exact, np.full(exact.shape, bound)


@dataclass(eq=False)
class OnDevice:
    """A function of a family, computed by torch on a device in float32, without TF32.

    With the precision bf16, a network runs its convolutions and products in bfloat16, except for the hash layer.

    Each process copies the arrays to the device once. On one device and for one size of batches, u is deterministic;
    otherwise, and compared with the CPU, it differs by rounding.

    `project` and `encode` also raise ValueError if torch has no such device, or its memory is too small for a row.
    """

    function: SignFunction
    device: str
    precision: Precision = "float32"

    @property
    def n_bits(self) -> int:
        return self.function.n_bits

    @property
    def dim(self) -> int:
        return self.function.dim

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        return self.function.epochs

    def to(self, device: str, precision: Precision = "float32") -> HashFunction:
        return self.function.to(device, precision)

    def project(self, x: Array) -> Array:
        check_shape(x, self.dim)
        u = np.empty((len(x), self.n_bits), np.float32)
        with np.errstate(over="ignore"):  # overflow is reported below
            self.batches.run(x, u)
        check_finite(u, x)
        return u

    def blocks(self, x: Array) -> Iterator[Array]:
        yield self.project(x)

    def encode(self, x: Array) -> Array:
        bits: Array = self.project(x) >= 0
        return bits

    def undetermined(self, x: Array, precision: Precision = "float32") -> Array:
        return self.function.undetermined(x, precision)

    @property
    def batches(self) -> Batches:
        """The function on the device of this process."""
        from .device import Batches

        with _loading:
            if "_batches" not in self.__dict__:
                load = partial(self.function.on_device, self.device, self.precision)
                self.__dict__["_batches"] = Batches(load, self.device, self.function.rows)
        found: Batches = self.__dict__["_batches"]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_batches"}


FAMILIES: dict[str, type] = {family.__name__: family for family in SignFunction.__subclasses__()}


def to_arrays(function: HashFunction) -> tuple[str, dict[str, Array], dict[str, Any]]:
    """Return (family, arrays, numbers), which `from_arrays` turns back into the function.

    The parts of a tuple of arrays have the names "field.0", "field.1" and so on. `numbers` holds the other fields, also
    strings.

    Raises
    ------
    ValueError
        If the function belongs to no family of this module, so that it could not be loaded.
    """
    family = type(function).__name__
    if FAMILIES.get(family) is not type(function):
        raise ValueError(f"unknown family of hash functions {family!r}: expected one of {sorted(FAMILIES)}")
    arrays: dict[str, Array] = {}
    numbers: dict[str, Any] = {}
    for name in _parts(function):
        value = getattr(function, name)
        if isinstance(value, tuple):
            arrays |= {f"{name}.{place}": part for place, part in enumerate(value)}
        else:
            (arrays if isinstance(value, np.ndarray) else numbers)[name] = value
    return family, arrays, numbers


def from_arrays(family: str, arrays: dict[str, Array], numbers: dict[str, Any]) -> HashFunction:
    """Return the function that `to_arrays` converted.

    Raises
    ------
    ValueError
        If the family is unknown, or the names are not its fields.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family of hash functions {family!r}: expected one of {sorted(FAMILIES)}")
    values: dict[str, Any] = {**numbers, **{name: array for name, array in arrays.items() if "." not in name}}
    for name, place in sorted((name.split(".")[0], int(name.split(".")[1])) for name in arrays if "." in name):
        values[name] = (*values.get(name, ()), arrays[f"{name}.{place}"])
    if values.keys() != (expected := set(_parts(FAMILIES[family]))):
        raise ValueError(f"expected the fields {sorted(expected)} of {family}, found {sorted(values)}")
    function: HashFunction = FAMILIES[family](**values)
    return function
