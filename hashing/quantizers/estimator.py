"""Distances of queries from quantized rows, estimated from the codes and correctives of the rows.

With v = x - mean and p = q - mean, both rotated if the quantizer rotates, v is approximately low + step k, for the
levels k (d,) of a code. A query is rounded likewise, or its levels are p itself. Then

    <v, p> = low sum(p) + step (low_q sum(k) + step_q <k, k_q>)

    |x - q|^2 = |v|^2 + |p|^2 - 2 <v, p>
    <x, q> = <v, p> + <v, mean> + <q, mean>

and every distance has the form a + b sum(p) + c (low_q sum(k) + step_q <k, k_q>) + e f, where a, b, c and e depend on
the row alone, and the rest on the query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import bits
from ..hamming.layout import read_only
from ..mapreduce import Array, Batch, Metric

ROWS = 4096  # rows whose levels are in memory at a time
QUERY_BITS = 4
COLUMNS = "step_float16", "term_float16"  # names of correctives, see `Quantizer`
FLOAT32 = {  # those of models of hashkiln 0.2, by their present names
    COLUMNS: ("step", "squared_norm", "along_mean"),
    (*COLUMNS, "low_float16"): ("step", "squared_norm", "along_mean", "low"),
}


@dataclass(frozen=True, eq=False)
class Estimator:
    """Estimated distances of rows from queries: the scores of hashing.evaluation.by_score.

    They are squared Euclidean distances, 1 - cosine, or negative inner products. The x of a batch holds the bytes of a
    code and of its correctives, as `row_bytes` joins them. A distance is rounded to float32 once, and depends neither
    on other rows nor on their number.
    """

    metric: Metric
    planes: int  # bits of a coordinate of a row
    levels: Array  # (q, d) uint8 below 16; or float32, the coordinates of real-valued queries
    low: Array  # (q,) float64; a coordinate of a query is low + step level
    step: Array  # (q,) float64
    constant: Array  # (q,) float64: f, the term of the query
    squared_mean: float  # |mean|^2
    codebook: Array | None = None  # (2^planes,) float64 integers, the values of the levels of rows; None: the levels
    units: tuple[float, float] | None = None  # of float16 correctives; None: they are float32, see `Quantizer`

    def __call__(self, batch: Batch) -> Array:
        """Return (q, n) float32, the estimated distances of the rows of a batch from each query."""
        q, d = self.levels.shape
        out = np.empty((q, len(batch.x)), np.float32)
        for start in range(0, len(batch.x), ROWS):
            part = slice(start, start + ROWS)
            codes, correctives = split_bytes(batch.x[part], self.planes * d, np.float16 if self.units else np.float32)
            self._estimate(codes, self._rows(correctives.astype(np.float64)), out[:, part])
        if self.metric == "cosine" and not self.units:
            np.clip(out, 0, 2, out=out)  # the error of a short row, divided by its length, must not put it first
        return out

    def _estimate(self, codes: Array, rows: Array, out: Array) -> None:
        if self.levels.dtype == np.uint8 and self.codebook is None:
            from . import kernels

            planes = plane_words(codes, self.planes, self.levels.shape[1])
            kernels.distances(self._words, planes, rows, read_only(self._terms), out)
            return
        integers, unit = self._integers
        levels = levels_of(codes, self.planes, self.levels.shape[1])
        levels = levels.astype(np.float64) if self.codebook is None else self.codebook[levels]
        total, low, step, constant = self._terms.T[:, :, None]
        product = low * levels.sum(axis=1) + step * (integers @ levels.T * unit)  # sums of integers are exact
        out[:] = rows[0] + rows[1] * total + rows[2] * product + rows[3] * constant

    def _rows(self, correctives: Array) -> Array:
        """Return a, b, c and e (4, n) float64 of rows with correctives (n, 2 to 4)."""
        if self.units:
            step, term, *lows = correctives.T * np.array([*self.units, self.units[0]])[: correctives.shape[1], None]
            squared, along = term**2, term
        else:
            step, squared, along, *lows = correctives.T
        if lows:
            (low,) = lows
        else:  # the values of levels are symmetric about 0
            low = -(2**self.planes - 1) / 2 * step if self.codebook is None else np.zeros(len(step))
        one = np.ones(len(step))
        if self.metric == "euclidean":
            return np.stack([squared, -2 * low, -2 * step, one])
        if self.metric == "ip":
            return np.stack([-along, -low, -step, one])
        norms = one if self.units else np.sqrt(np.maximum(squared + 2 * along + self.squared_mean, 1e-30))
        return np.stack([one - along / norms, -low / norms, -step / norms, 1 / norms])

    @cached_property
    def _terms(self) -> Array:
        """Return (q, 4) float64: sum(p), low, step and f of each query."""
        total = self.levels.shape[1] * self.low + self.step * self.levels.sum(axis=1, dtype=np.float64)
        return np.stack([total, self.low, self.step, self.constant], axis=1)

    @cached_property
    def _words(self) -> Array:
        """Return (q, 4, W) uint64, the planes of the levels of integer queries, bit 0 first."""
        ones = self.levels[:, None, :] >> np.arange(QUERY_BITS, dtype=np.uint8)[:, None] & 1
        return words_of(bits.pack(ones.reshape(-1, ones.shape[2]).astype(bool))).reshape(len(ones), QUERY_BITS, -1)

    @cached_property
    def _integers(self) -> tuple[Array, Array]:
        """Return the levels of queries as integers (q, d) float64 and their unit (q, 1), a power of two.

        The integers are so small that sums of their products with values of rows are exact in float64, in any order.
        """
        queries = self.levels.astype(np.float64)
        most = 2**self.planes if self.codebook is None else int(self.codebook.max())
        size = (queries.shape[1] * most).bit_length()
        exponents = np.frexp(np.abs(queries).max(axis=1, keepdims=True, initial=0))[1] + size - 52
        return np.rint(np.ldexp(queries, -exponents)), np.ldexp(1.0, exponents)


def corrective_type(names: Sequence[str]) -> np.dtype[Any]:
    """Return the type of correctives with the given names: float16 or float32, little-endian."""
    return np.dtype("<f2" if all(name.endswith("_float16") for name in names) else "<f4")


def row_size(n_bits: int, correctives: Sequence[str]) -> int:
    """Return the bytes of a row: its code, and the correctives with the given names."""
    return bits.n_bytes(n_bits) + corrective_type(correctives).itemsize * len(correctives)


def row_bytes(codes: Array, correctives: Array) -> Array:
    """Return rows (n, B + b) uint8 of codes (n, B) and the b bytes of correctives (n, c), little-endian."""
    little = np.ascontiguousarray(correctives, correctives.dtype.newbyteorder("<"))
    return np.concatenate([codes, little.view(np.uint8)], axis=1)


def split_bytes(rows: Array, n_bits: int, dtype: DTypeLike) -> tuple[Array, Array]:
    """Return the codes and the correctives of a type that `row_bytes` joined."""
    width = bits.n_bytes(n_bits)
    return rows[:, :width], np.ascontiguousarray(rows[:, width:]).view(np.dtype(dtype).newbyteorder("<"))


def plane_bytes(codes: Array, planes: int, d: int) -> Array:
    """Return codes (n, B) plane by plane, each padded to whole bytes: (planes, n, ceil(d / 8)) uint8."""
    if d % 8 == 0 or planes == 1:
        return np.moveaxis(codes.reshape(len(codes), planes, -1), 1, 0)
    ones = bits.unpack(codes, planes * d).reshape(len(codes), planes, d)
    return np.packbits(np.moveaxis(ones, 1, 0), axis=2, bitorder="little")


def plane_words(codes: Array, planes: int, d: int) -> Array:
    """Return codes (n, B) as words (planes, W, n) uint64."""
    return np.stack([words_of(plane).T for plane in plane_bytes(codes, planes, d)])


def words_of(codes: Array) -> Array:
    """Return codes (n, B) as words (n, W) uint64, padded with zero bits."""
    words: Array = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))).view(np.uint64)
    return words


def levels_of(codes: Array, planes: int, d: int) -> Array:
    """Return the levels (n, d) uint8 of codes (n, B): the bits of a coordinate as an integer."""
    ones = bits.unpack(codes, planes * d).reshape(len(codes), planes, d).astype(np.uint8)
    levels: Array = (ones << np.arange(planes, dtype=np.uint8)[::-1, None]).sum(axis=1, dtype=np.uint8)
    return levels
