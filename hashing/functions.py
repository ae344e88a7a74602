"""Fitted hash functions: the few families that all methods learn, and their form at rest.

A family is a frozen dataclass whose fields are arrays and numbers; that is all that is ever saved of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from typing import Any, ClassVar, Protocol

import numpy as np

from .anchors import anchor_weights, rbf, squared_centre_distances
from .mapreduce import Array, Epoch, one_blas_thread

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda u: 0.5 * (1 + np.tanh(0.5 * u)),  # np.tanh is faster than scipy's expit
    "tanh": np.tanh,
    "linear": lambda u: u,
}


class HashFunction(Protocol):
    """A pure function of rows. What it makes of a row depends neither on the other rows nor on their number."""

    @property
    def n_bits(self) -> int: ...
    @property
    def epochs(self) -> tuple[Epoch, ...]: ...

    @property
    def dim(self) -> int:
        """d, the dimension of the vectors it takes."""

    def project(self, x: Array) -> Array:
        """u (n, n_bits) float32, of which the bits are the signs."""

    def encode(self, x: Array) -> Array:
        """x (n, d) float32 -> (n, n_bits) bool, where True stands for +1."""


@dataclass(frozen=True, eq=False)
class SignFunction(ABC):
    """h(x) = [u(x) >= 0], for a u that each family says in `values`.

    Arrays are kept as float32, or as tuples of float32. Raises ValueError where one is not finite.
    """

    rows: ClassVar[int] = 4096  # of the blocks in which rows are encoded
    epochs: tuple[Epoch, ...] = field(default=(), kw_only=True, compare=False)  # how it was made, not what it is

    def __post_init__(self) -> None:
        for name in _parts(self):
            value = getattr(self, name)
            if isinstance(value, (np.ndarray, tuple)):
                object.__setattr__(self, name, _finite(name, value))

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(d, n_bits)."""

    @property
    def dim(self) -> int:
        return self.shape[0]

    @property
    def n_bits(self) -> int:
        return self.shape[1]

    @abstractmethod
    def values(self, x: Array) -> Array:
        """x (rows, d) float32 -> u (rows, n_bits)."""

    def project(self, x: Array) -> Array:
        """In blocks of always so many rows, the last one padded with zeros: the bits of a matrix product depend on its
        shape and on the number of threads, and here neither ever varies. ValueError where u is not finite.
        """
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"expected vectors of shape (n, {self.dim}), found {x.shape}")
        u = np.empty((len(x), self.n_bits), np.float32)
        with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):  # what overflows is told in one line
            for start in range(0, len(x), self.rows):
                block = np.ascontiguousarray(x[start : start + self.rows], np.float32)
                if (n := len(block)) < self.rows:
                    block = np.concatenate([block, np.zeros((self.rows - n, self.dim), np.float32)])
                u[start : start + n] = self.values(block)[:n]
        if not np.isfinite(u.sum(dtype=np.float64)):
            row = int(np.flatnonzero(~np.isfinite(u).all(axis=1))[0])
            most = np.abs(x[row]).max()
            raise ValueError(f"expected vectors that float32 can measure, found values up to {most:.3g} in row {row}")
        return u

    def encode(self, x: Array) -> Array:
        return self.project(x) >= 0


def _parts(family: Any) -> list[str]:
    """The names of the fields that make a function what it is."""
    return [field.name for field in fields(family) if field.compare]


def _finite(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_finite(name, part) for part in value)
    with np.errstate(over="ignore"):
        value = np.ascontiguousarray(value, np.float32)
    if not np.isfinite(value).all():
        raise ValueError(f"expected a finite {name}, found NaN or infinity: the fit did not converge")
    return value


@dataclass(frozen=True, eq=False)
class LinearHash(SignFunction):
    """u = xW - t."""

    weight: Array  # (d, n_bits)
    threshold: Array  # (n_bits,)

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def values(self, x: Array) -> Array:
        return x @ self.weight - self.threshold


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
        return np.cos(x @ self.weight + self.phase) - self.threshold


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


@dataclass(frozen=True, eq=False)
class KernelHash(SignFunction):
    """u = k(x)W - t, with k(x) = exp(-gamma |x - a|^2) of each anchor a."""

    anchors: Array  # (m, d)
    gamma: float
    weight: Array  # (m, n_bits)
    threshold: Array  # (n_bits,)

    @property
    def shape(self) -> tuple[int, int]:
        return self.anchors.shape[1], self.weight.shape[1]

    def values(self, x: Array) -> Array:
        return rbf(x, self.anchors, self.gamma) @ self.weight - self.threshold


@dataclass(frozen=True, eq=False)
class AnchorGraphHash(SignFunction):
    """u = z(x)W, z(x) the weights of x on its nearest anchors; the first columns of u may give a second bit each.

    A column y with thresholds (upper, lower) gives a second bit [y >= upper] where y >= 0, [y <= lower] elsewhere.
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
        halves = y[:, : self.split.shape[1]]
        upper, lower = self.split
        return np.concatenate([y, np.where(halves >= 0, halves - upper, lower - halves)], axis=1)


@dataclass(frozen=True, eq=False)
class ProductHash(SignFunction):
    """The codes of the nearest centre in each of M subspaces of (x - mean)R, one after another.

    A centre's index is its code, bit j of it at position j. u is the least squared distance of a centre without the
    bit less that of one with it, so that its signs spell the nearest centre.
    """

    mean: Array  # (d,)
    rotation: Array  # (d, M * d_s)
    centres: Array  # (M, 2^b, d_s)

    @property
    def shape(self) -> tuple[int, int]:
        return self.rotation.shape[0], self.centres.shape[0] * (self.centres.shape[1].bit_length() - 1)

    def values(self, x: Array) -> Array:
        m, k, width = self.centres.shape
        parts = ((x - self.mean) @ self.rotation).reshape(len(x), m, width)
        u = []
        for s in range(m):
            distances = squared_centre_distances(parts[:, s], self.centres[s])
            for j in range(k.bit_length() - 1):
                one = (np.arange(k) >> j & 1).astype(bool)
                u.append(distances[:, ~one].min(axis=1) - distances[:, one].min(axis=1))
        return np.stack(u, axis=1)


@dataclass(frozen=True, eq=False)
class NetworkHash(SignFunction):
    """u = the last layer of a perceptron: each layer is hW + b, and an activation follows all but the last."""

    weights: tuple[Array, ...]  # (d, h1), (h1, h2), ..., (h, n_bits)
    biases: tuple[Array, ...]  # (h1,), ..., (n_bits,)
    activation: str  # a name of ACTIVATIONS

    @property
    def shape(self) -> tuple[int, int]:
        return self.weights[0].shape[0], self.weights[-1].shape[1]

    def values(self, x: Array) -> Array:
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = ACTIVATIONS[self.activation](x @ weight + bias)
        return x @ self.weights[-1] + self.biases[-1]


@dataclass(frozen=True, eq=False)
class DeepHash(SignFunction):
    """u = a network of hashing.networks, in evaluation mode, on the CPU."""

    parameters: tuple[Array, ...]  # in the order of the network's state
    network: str
    d: int
    length: int  # n_bits
    views: int = 1
    split: int = 0  # dimensions of the first of two views
    hash_layer: str = "linear"
    rows: ClassVar[int] = 128  # a picture's activations are large, and a query alone pays for a whole block

    @property
    def shape(self) -> tuple[int, int]:
        return self.d, self.length

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the function: its copies in a process share one network."""
        content = sha256(repr((self.network, self.shape, self.views, self.split, self.hash_layer)).encode())
        for part in self.parameters:
            content.update(part)
        return content.hexdigest()

    def values(self, x: Array) -> Array:
        from .deep import networks

        architecture = self.network, self.d, self.length, self.views, self.split, self.hash_layer
        return networks.evaluated(networks.shared_network(self.digest, self.parameters, *architecture), x)


FAMILIES: dict[str, type] = {family.__name__: family for family in SignFunction.__subclasses__()}


def to_arrays(function: HashFunction) -> tuple[str, dict[str, Array], dict[str, Any]]:
    """(family, arrays, numbers), from which `from_arrays` makes the function again. A tuple has parts name.place.

    Raises ValueError for a function of no family, which nobody could read again.
    """
    family = type(function).__name__
    if FAMILIES.get(family) is not type(function):
        raise ValueError(f"expected a hash function of a family among {sorted(FAMILIES)}, found {family!r}")
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
    """The function that `to_arrays` took apart. Raises ValueError for a family that is not known here."""
    if family not in FAMILIES:
        raise ValueError(f"expected a hash function of a family among {sorted(FAMILIES)}, found {family!r}")
    values: dict[str, Any] = {**numbers, **{name: array for name, array in arrays.items() if "." not in name}}
    for name, place in sorted((name.split(".")[0], int(name.split(".")[1])) for name in arrays if "." in name):
        values[name] = (*values.get(name, ()), arrays[f"{name}.{place}"])
    if values.keys() != (expected := set(_parts(FAMILIES[family]))):
        raise ValueError(f"expected {family} to have the fields {sorted(expected)}, found {sorted(values)}")
    return FAMILIES[family](**values)
