"""Arrays of a user's: checked where they come in, and cut into shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hashing.bits import n_bytes, pack
from hashing.mapreduce import Array, Batch

ROWS_PER_SHARD = 2**20
BATCH_BYTES = 2**24


@dataclass(frozen=True)
class ArrayShard:
    """Consecutive rows of an array, with ids that count from `first`. Rows are converted batch by batch."""

    x: Array  # (n, ...)
    labels: Array | None  # (n,) classes | (n, c) multi-hot
    classes: Array | None  # (c,) distinct, of labels (n,)
    first: int
    converted: Callable[[Array], Array]  # float32 or packed

    def __iter__(self) -> Iterator[Batch]:
        width = 4 * self.x.shape[1]  # whatever the dtype: other batches would change the last digits of a fit
        if self.labels is not None:
            width += self.labels.shape[1] if self.classes is None else len(self.classes)
        step = max(1, BATCH_BYTES // width)
        for start in range(0, len(self.x), step):
            rows = slice(start, start + step)
            x = self.converted(self.x[rows])
            yield Batch(self.first + start + np.arange(len(x)), x, self._multi_hot(rows))

    def _multi_hot(self, rows: slice) -> Array | None:
        if self.labels is None:
            return None
        y = self.labels[rows]
        return (y if self.classes is None else y[:, None] == self.classes).astype(np.uint8)


def shards_of(
    x: Array, labels: Array | None, classes: Array | None, converted: Callable[[Array], Array], first: int = 0
) -> list[ArrayShard]:
    """Return the rows as shards; the id of row i is first + i."""
    step = ROWS_PER_SHARD
    return [
        ArrayShard(x[i : i + step], None if labels is None else labels[i : i + step], classes, first + i, converted)
        for i in range(0, len(x), step)
    ]


def as_vectors(name: str, given: Any, dim: int | None = None) -> Array:
    """Return what is given as an array (n, d) of numbers that float32 can hold.

    Raises ValueError, which begins with the name of the argument, for anything else.
    """
    x = _array(name, given)
    if x.ndim != 2 or not x.shape[1] or x.dtype.kind not in "biuf":
        raise ValueError(f"{name}: expected numbers (n, d), found {x.shape} {x.dtype}")
    if dim is not None and x.shape[1] != dim:
        raise ValueError(f"{name}: expected vectors of dimension {dim}, found {x.shape[1]}")
    step = max(1, BATCH_BYTES // (4 * x.shape[1]))
    for start in range(0, len(x), step):
        finite = np.isfinite(float32(x[start : start + step])).all(axis=1)
        if not finite.all():
            row = start + int(finite.argmin())
            raise ValueError(f"{name}: expected finite float32 values, found {x[row].tolist()} in row {row}"[:200])
    return x


def as_labels(name: str, given: Any, n: int) -> Array:
    """Return what is given as int64 classes (n,), or as multi-hot labels (n, c) of 0 and 1.

    Raises ValueError, which begins with the name of the argument, for anything else.
    """
    y = _array(name, given)
    if y.shape == (len(y), 1):
        y = y[:, 0]
    if y.ndim not in (1, 2) or y.dtype.kind not in "biu" or len(y) != n:
        raise ValueError(f"{name}: expected integer labels ({n},) or multi-hot ({n}, c), found {y.shape} {y.dtype}")
    if not y.size or int(y.max()) > np.iinfo(np.int64).max:  # as int64 they are compared with those of the queries
        found = f"up to {y.max()}" if y.size else f"none, of shape {y.shape}"
        raise ValueError(f"{name}: expected labels of int64, found {found}")
    if y.ndim == 2 and (y.min() < 0 or y.max() > 1):
        raise ValueError(f"{name}: expected multi-hot labels of 0 and 1, found {y.min()} to {y.max()}")
    return y.astype(np.int64) if y.ndim == 1 else y


def as_codes(name: str, given: Any, bits: int | None = None) -> tuple[Array, int]:
    """Return what is given as an array of codes for `packed`, and their number of bits.

    (n, B) uint8 is packed as in hashing.bits and in Faiss, 8 B bits unless `bits` says fewer; (n, n_bits) of bool, or
    of -1 and +1 in any other dtype, is not. Raises ValueError, which begins with the name of the argument, for anything
    else; other values than -1 and +1 are found when rows are packed.
    """
    codes = _array(name, given)
    if codes.ndim != 2 or not codes.size or codes.dtype.kind not in "biuf":
        found = f"{codes.shape} {codes.dtype}"
        raise ValueError(f"{name}: expected codes (n, B) uint8, or (n, n_bits) of bool, or of -1 and +1, found {found}")
    is_packed = codes.dtype == np.uint8
    n_bits = bits or codes.shape[1] * (8 if is_packed else 1)
    if codes.shape[1] != (n_bytes(n_bits) if is_packed else n_bits):
        kind = "bytes of packed codes" if is_packed else "bits, unpacked"
        raise ValueError(f"{name}: expected codes of {n_bits} bits, found {codes.shape[1]} {kind} a row")
    return codes, n_bits


def packed(codes: Array) -> Array:
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
    except (ValueError, TypeError, RuntimeError) as error:  # rows of different lengths; a tensor that has a gradient
        raise ValueError(f"{name}: expected an array, found {type(value).__name__}: {error}") from None
