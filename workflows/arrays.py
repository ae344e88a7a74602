"""Arrays that users pass: checks, and shards of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import index
from typing import Any

import numpy as np

from hashing.bits import n_bytes, pack
from hashing.mapreduce import Array, Batch

ROWS_PER_SHARD = 2**20
BATCH_BYTES = 2**24


@dataclass(frozen=True)
class ArrayShard:
    """Consecutive rows of an array, with consecutive ids from `first`. Rows are converted batch by batch."""

    x: Array  # (n, ...)
    labels: Array | None  # (n,) classes | (n, c) multi-hot
    classes: Array | None  # (c,) distinct, of labels (n,)
    first: int
    convert: Callable[[Array], Array]  # float32 or packed_codes

    def __iter__(self) -> Iterator[Batch]:
        width = 4 * self.x.shape[1]  # for any dtype: the last digits of a fit depend on how rows are cut into batches
        if self.labels is not None:
            width += self.labels.shape[1] if self.classes is None else len(self.classes)
        step = max(1, BATCH_BYTES // width)
        for start in range(0, len(self.x), step):
            rows = slice(start, start + step)
            x = self.convert(self.x[rows])
            y = None if self.labels is None else multi_hot(self.labels[rows], self.classes)
            yield Batch(self.first + start + np.arange(len(x)), x, y)


def multi_hot(labels: Array, classes: Array | None) -> Array:
    """Return labels (n,), as (n, c) for their distinct `classes` (c,); or labels (n, c) without these, as uint8."""
    return (labels if classes is None else labels[:, None] == classes).astype(np.uint8)


def shards_of(
    x: Array, labels: Array | None, classes: Array | None, convert: Callable[[Array], Array]
) -> list[ArrayShard]:
    """Return the rows as shards; the id of row i is i."""
    step = ROWS_PER_SHARD
    return [
        ArrayShard(x[i : i + step], None if labels is None else labels[i : i + step], classes, i, convert)
        for i in range(0, len(x), step)
    ]


def as_vectors(name: str, given: Any, dim: int | None = None, metric: str = "") -> Array:
    """Return an argument as an array (n, d) of numbers that are finite as float32, and by cosine in no row all zero.

    Raises ValueError, which starts with the name of the argument, for anything else.
    """
    x = _array(name, given)
    if x.ndim != 2 or not x.shape[1] or x.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected numbers (n, d), found {x.shape} {x.dtype}")
    if dim is not None and x.shape[1] != dim:
        raise ValueError(f"{name}: expected vectors of dimension {dim}, found {x.shape[1]}")
    step = max(1, BATCH_BYTES // (4 * x.shape[1]))
    for start in range(0, len(x), step):
        block = float32(x[start : start + step])
        if not (finite := np.isfinite(block)).all():
            row, column = np.argwhere(~finite)[0] + (start, 0)
            found = f"{x[row, column]} in row {row}, column {column}"
            raise ValueError(f"{name}: expected finite float32 values, found {found}")
        if metric == "cosine" and not (usable := block.any(axis=1)).all():
            row = start + usable.argmin()
            raise ValueError(f"{name}: expected vectors other than zero, which has no cosine, found zero in row {row}")
    return x


def as_labels(name: str, given: Any, n: int) -> Array:
    """Return an argument as int64 classes (n,), or as multi-hot labels (n, c) of 0 and 1.

    Raises ValueError, which starts with the name of the argument, for anything else.
    """
    y = _array(name, given)
    if y.shape == (n, 1):
        y = y[:, 0]
    if y.ndim not in (1, 2) or y.dtype.kind not in "biu" or len(y) != n:
        raise ValueError(f"{name}: expected integer labels ({n},) or multi-hot ({n}, c), found {y.shape} {y.dtype}")
    if not y.size or int(y.max()) > np.iinfo(np.int64).max:  # they are compared as int64
        found = f"up to {y.max()}" if y.size else f"none, of shape {y.shape}"
        raise ValueError(f"{name}: expected labels of int64, found {found}")
    if y.ndim == 2 and (y.min() < 0 or y.max() > 1):
        raise ValueError(f"{name}: expected multi-hot labels of 0 and 1, found {y.min()} to {y.max()}")
    return y.astype(np.int64) if y.ndim == 1 else y


def as_codes(name: str, given: Any, bits: int | None = None) -> tuple[Array, int]:
    """Return an argument as an array of codes for `packed_codes`, and their number of bits.

    Codes are (n, B) uint8, packed as in hashing.bits and in Faiss, of 8 B bits or of `bits`; or (n, n_bits) of bool, or
    of -1 and +1 in any other dtype. Raises ValueError, which starts with the name of the argument, for anything else;
    `packed_codes` finds values other than -1 and +1.
    """
    codes = _array(name, given)
    if codes.ndim != 2 or not codes.size or codes.dtype.kind not in "biuf":
        found = f"{codes.shape} {codes.dtype}"
        raise ValueError(f"{name}: expected codes (n, B) uint8, or (n, n_bits) of bool, or of -1 and +1, found {found}")
    is_packed = codes.dtype == np.uint8
    n_bits = codes.shape[1] * (8 if is_packed else 1) if bits is None else as_count("bits", bits)
    if codes.shape[1] != (n_bytes(n_bits) if is_packed else n_bits):
        kind = "bytes of packed codes" if is_packed else "bits, unpacked"
        raise ValueError(f"{name}: expected codes of {n_bits} bits, found {codes.shape[1]} {kind} a row")
    return codes, n_bits


def as_count(name: str, given: Any) -> int:
    """Return an argument as an integer of at least 1. Raises ValueError, which starts with its name, for others."""
    try:
        count = index(given)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, found {given!r}")
    return count


def packed_codes(codes: Array) -> Array:
    """Return codes from `as_codes` as (n, B) uint8."""
    if codes.dtype == np.uint8:
        return codes
    if codes.dtype != bool and (wrong := codes[(codes != 1) & (codes != -1)]).size:
        raise ValueError(f"expected codes of -1 and +1, or bool, or packed uint8, found {wrong[0]} in {codes.dtype}")
    return pack(codes > 0)


def float32(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32)


def _array(name: str, value: Any) -> Array:
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths; a tensor with a gradient
        raise ValueError(f"{name}: expected an array, found {type(value).__name__}: {error}") from None
