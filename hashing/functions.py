"""Fitted hash functions: the few families that all methods learn, and their form at rest.

A family is a frozen dataclass whose fields are arrays and numbers; that is all that is ever saved of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from .mapreduce import Array, one_blas_thread

ROWS = 4096


class HashFunction(Protocol):
    """A pure function of rows. What it makes of a row depends neither on the other rows nor on their number."""

    @property
    def n_bits(self) -> int: ...

    @property
    def dim(self) -> int:
        """d, the dimension of the vectors it takes."""

    def project(self, x: Array) -> Array:
        """u (n, n_bits) float32, of which the bits are the signs."""

    def encode(self, x: Array) -> Array:
        """x (n, d) float32 -> (n, n_bits) bool, where True stands for +1."""


@dataclass(frozen=True, eq=False)
class LinearHash:
    """h(x) = [xW - t >= 0]."""

    weight: Array  # (d, n_bits) float32
    threshold: Array  # (n_bits,) float32

    def __post_init__(self) -> None:
        for name in ("weight", "threshold"):
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name), np.float32))
            if not np.isfinite(getattr(self, name)).all():
                raise ValueError(f"expected a finite {name}, found NaN or infinity: the fit did not converge")

    @property
    def n_bits(self) -> int:
        return self.weight.shape[1]

    @property
    def dim(self) -> int:
        return self.weight.shape[0]

    def project(self, x: Array) -> Array:
        return in_blocks(lambda block: block @ self.weight - self.threshold, x, self.dim, self.n_bits)

    def encode(self, x: Array) -> Array:
        return self.project(x) >= 0


FAMILIES: dict[str, type] = {family.__name__: family for family in (LinearHash,)}


def in_blocks(fn: Callable[[Array], Array], x: Array, dim: int, n_bits: int) -> Array:
    """fn (ROWS, d) -> (ROWS, n_bits) over x (n, d), in blocks of always ROWS rows, the last one padded with zeros.

    The bits of a matrix product depend on its shape and on the number of threads; here neither ever varies.
    """
    if x.ndim != 2 or x.shape[1] != dim:
        raise ValueError(f"expected vectors of shape (n, {dim}), found {x.shape}")
    u = np.empty((len(x), n_bits), np.float32)
    with one_blas_thread():
        for start in range(0, len(x), ROWS):
            block = np.ascontiguousarray(x[start : start + ROWS], np.float32)
            n = len(block)
            if n < ROWS:
                block = np.concatenate([block, np.zeros((ROWS - n, dim), np.float32)])
            u[start : start + n] = fn(block)[:n]
    return u


def to_arrays(function: HashFunction) -> tuple[str, dict[str, Array], dict[str, Any]]:
    """(family, arrays, numbers), from which `from_arrays` makes the function again."""
    values = {field.name: getattr(function, field.name) for field in fields(function)}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return type(function).__name__, arrays, {name: value for name, value in values.items() if name not in arrays}


def from_arrays(family: str, arrays: dict[str, Array], numbers: dict[str, Any]) -> HashFunction:
    """The function that `to_arrays` took apart. Raises ValueError for a family that is not known here."""
    if family not in FAMILIES:
        raise ValueError(f"expected a hash function of a family among {sorted(FAMILIES)}, found {family!r}")
    expected, found = {field.name for field in fields(FAMILIES[family])}, {*arrays, *numbers}
    if found != expected:
        raise ValueError(f"expected {family} to have the fields {sorted(expected)}, found {sorted(found)}")
    return FAMILIES[family](**arrays, **numbers)
