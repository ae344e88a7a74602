"""Fitted hash functions, which compute codes block by block on a CPU or on a torch device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from .blas import one_blas_thread
from .mapreduce import Array, Epoch, Metric
from .unit_rows import unit_vectors

if TYPE_CHECKING:
    from .device import Batches


Precision = Literal["float32", "bf16"]
_loading = Lock()


class HashFunction(Protocol):
    """A fitted hash function, from vectors to codes.

    An implementation must be pure and deterministic: the code of a row depends only on that row, not on the other rows
    or their number. It must also be picklable and safe to call from several threads. Subclasses of `SignFunction` meet
    these requirements and define only `shape`, `values` and `rounding`. Only those of hashing.families can be stored.

    Examples
    --------
    >>> from hashing.families import LinearHash
    >>> function = LinearHash(np.array([[1.0, 0.0], [0.0, -1.0]]), np.zeros(2))
    >>> function.dim, function.n_bits
    (2, 2)
    >>> function.project(np.array([[0.5, 2.0]]))
    array([[ 0.5, -2. ]], dtype=float32)
    >>> function.encode(np.array([[0.5, 2.0]]))
    array([[ True, False]])
    """

    @property
    def n_bits(self) -> int:
        """Return the number of bits of a code."""

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """Return the metrics of the training epochs; empty for methods that do not train in epochs."""

    @property
    def dim(self) -> int:
        """Return d, the dimension of the vectors."""

    @property
    def metric(self) -> Metric | Literal[""]:
        """Return the metric of the rows, if the function depends on it: by cosine, rows are scaled to length one."""

    def project(self, x: Array) -> Array:
        """Return u (n, n_bits) float32 for vectors x (n, d); the bits are its signs."""

    def blocks(self, x: Array) -> Iterator[Array]:
        """Yield u for successive rows of x, in blocks that fit the cache. The next block may overwrite one."""

    def encode(self, x: Array) -> Array:
        """Return bits (n, n_bits) bool for vectors x (n, d); True means +1."""

    def to(self, device: str, precision: Precision = "float32") -> HashFunction:
        """Return the function as torch computes it on a device, such as "cuda"; see `OnDevice`."""

    def undetermined(self, x: Array, precision: Precision = "float32") -> Array:
        """Return whether bits (n, n_bits) of vectors x (n, d) may differ between machines, because u is nearly 0.

        For these bits, the exact |u| is at most the rounding error of the given precision.
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
    epochs: tuple[Epoch, ...] = field(default=(), kw_only=True, compare=False)  # not part of the function
    metric: Metric | Literal[""] = field(default="", kw_only=True)  # "cosine": rows are first scaled to length one

    def __post_init__(self) -> None:
        for name in part_names(self):
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
        """Return u (rows, n_bits) for one block x (rows, d) float32, of length one by cosine.

        x may also be a tensor, if `on_device` has copied the arrays: use only operations that numpy and torch share.
        """

    @abstractmethod
    def rounding(self, x: Array) -> Array:
        """Return a bound (n, n_bits) on the rounding errors of `values` in float32, for x (n, d) float64.

        The bound holds for any order of summation, and so on any machine and for any batch size.
        """

    def undetermined(self, x: Array, precision: Precision = "float32") -> Array:
        exact = self.compared(x).astype(np.float64)
        with one_blas_thread():
            undetermined: Array = np.abs(self.values(exact)) <= self.rounding(exact)
        return undetermined

    def compared(self, x: Array, first_row: int = 0) -> Array:
        """Return rows x (n, d) as float32, and by cosine scaled to length one. All that encodes begins with this.

        Raises
        ------
        ValueError
            If x has another dimension, or by cosine a row of zeros.
        """
        check_shape(x, self.dim)
        with np.errstate(over="ignore", invalid="ignore"):  # overflow is reported when u is computed
            x = np.ascontiguousarray(x, np.float32)
            return unit_vectors(x, first_row) if self.metric == "cosine" else x

    def project(self, x: Array) -> Array:
        """Return u (n, n_bits) float32 for vectors x (n, d).

        The last digits of a matrix product depend on its shape and on the number of BLAS threads. To make a row's code
        independent of the other rows, u is computed on one thread, in blocks of `rows` rows, the last one padded with
        zeros.

        Raises
        ------
        ValueError
            If x has another dimension, values too large for u to be finite in float32, or by cosine a row of zeros.
        """
        check_shape(x, self.dim)
        u = np.empty((len(x), self.n_bits), np.float32)
        with one_blas_thread():
            for number, block in enumerate(self.blocks(x)):
                u[number * self.rows : (number + 1) * self.rows] = block
        return u

    def blocks(self, x: Array) -> Iterator[Array]:
        """Yield u (rows, n_bits) float32 for successive blocks of rows. Raises ValueError as `project` does."""
        check_shape(x, self.dim)
        for start in range(0, len(x), self.rows):
            own = x[start : start + self.rows]
            block = self.compared(own, start)
            if (n := len(block)) < self.rows:
                block = np.concatenate([block, np.zeros((self.rows - n, self.dim), np.float32)])
            with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):  # overflow is reported below
                u = np.asarray(self.values(block)[:n], np.float32)
            check_finite(u, own, start)
            yield u

    def encode(self, x: Array) -> Array:
        """Return bits (n, n_bits) bool, u >= 0. Raises ValueError as `project` does."""
        bits: Array = self.project(x) >= 0
        return bits

    def to(self, device: str, precision: Precision = "float32") -> HashFunction:
        return OnDevice(self, device, precision)

    def on_device(self, device: str, precision: Precision) -> Callable[[Any], Any]:
        """Copy the arrays to a torch device, and return `values` for tensors there."""
        import torch

        copy = object.__new__(type(self))
        for name in part_names(self):
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
    """Raise ValueError, with a row number, unless the values u (n, n_bits) of vectors x (n, d) are all finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.vdot(u, u)):  # fast, but it can overflow
            return
    if len(rows := np.flatnonzero(~np.isfinite(u).all(axis=1))):
        row = int(rows[0])
        most = np.abs(x[row]).max()
        row += first_row
        raise ValueError(f"row {row}: values up to {most:.3g} overflow float32 or are not finite: scale the vectors")


def part_names(family: Any) -> list[str]:
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


@dataclass(eq=False)
class OnDevice:
    """A function of a family, computed by torch on a device in float32, without TF32.

    With the precision bf16, networks run convolutions and products in bfloat16, except for the hash layer.

    Each process copies the arrays to the device once. On the same device and with the same batch size, u is
    deterministic; otherwise, and compared with the CPU, it differs by rounding errors.

    `project` and `encode` also raise ValueError if torch has no such device, or its memory is too small for a row.

    Examples
    --------
    >>> from hashing.families import LinearHash
    >>> LinearHash(np.eye(2), np.zeros(2)).to("cpu").encode(np.array([[0.5, -2.0]]))
    array([[ True, False]])
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

    @property
    def metric(self) -> Metric | Literal[""]:
        return self.function.metric

    def to(self, device: str, precision: Precision = "float32") -> HashFunction:
        return self.function.to(device, precision)

    def project(self, x: Array) -> Array:
        check_shape(x, self.dim)
        u = np.empty((len(x), self.n_bits), np.float32)
        with np.errstate(over="ignore"):  # overflow is reported below
            self.batches.run(self.function.compared(x) if self.metric else x, u)  # else pixels go there as uint8
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
        """Return the function on the device, copied there on first use in this process."""
        from .device import Batches

        with _loading:
            if "_batches" not in self.__dict__:
                load = partial(self.function.on_device, self.device, self.precision)
                self.__dict__["_batches"] = Batches(load, self.device, self.function.rows)
        found: Batches = self.__dict__["_batches"]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_batches"}
