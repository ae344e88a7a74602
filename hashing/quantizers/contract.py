"""The contract of quantizers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..bits import n_bytes, pack
from ..functions import HashFunction, Precision, SignFunction, check_finite, check_shape, part_names
from ..mapreduce import Array
from ..neighbours.exact import MEASURED, Metric
from .estimator import Estimator, row_bytes


@dataclass(frozen=True, eq=False)
class Quantizer(SignFunction):
    """A hash function whose rows have correctives: a few float32 values from which distances are estimated.

    A code consists of planes of d bits, the most significant first. With the bits of coordinate j read as an integer
    k_j, the row is approximately mean + low + step k, after a rotation if the quantizer has one.

    It runs on the CPU only, with the same order of operations for every row, so its bits and correctives are the same
    on every machine and for every batch.
    """

    columns: ClassVar[tuple[str, ...]] = ("step", "squared_norm", "along_mean")
    """Names of the correctives, which are columns of a part: the step of the levels; the squared distance from the
    mean; the inner product of the mean and the distance vector; and, if it does not follow from the step, `low`."""
    rows: ClassVar[int] = 1024
    name: ClassVar[str]  # of the method, in reports

    @abstractmethod
    def quantize(self, x: Array) -> tuple[Array, Array]:
        """Return u (n, n_bits), whose signs are the bits, and the correctives (n, len(columns)), both float32.

        x is (n, d) float32. The values are checked afterwards.
        """

    @abstractmethod
    def estimator(self, queries: Array, metric: Metric, real: bool = False) -> Estimator:
        """Return the estimator of distances from queries (q, d), rounded to 4 bits a coordinate unless `real`.

        Raises ValueError for queries of another dimension, or by cosine for a query of zeros.
        """

    def estimate_of(self, metric: Metric, real: bool = False) -> str:
        """Return the name of the estimated distance."""
        queries = ", from real-valued queries," if real else ""
        return f"{self.name}'s estimate{queries} of the {MEASURED[metric]}"

    def quantized(self, x: Array) -> Iterator[tuple[Array, Array]]:
        """Yield u and the correctives of successive rows of x (n, d). Raises ValueError as `project` does."""
        check_shape(x, self.dim)
        for start in range(0, len(x), self.rows):
            with np.errstate(over="ignore", invalid="ignore"):  # overflow is reported below
                block = np.ascontiguousarray(x[start : start + self.rows], np.float32)
                u, correctives = self.quantize(block)
            check_finite(u, block, start)
            check_finite(correctives, block, start)
            yield u, correctives

    def encode_rows(self, x: Array) -> Array:
        """Return the bytes (n, B + 4 c) uint8 of the codes of x (n, d) and of their correctives, see `row_bytes`."""
        width = n_bytes(self.n_bits) + 4 * len(self.columns)
        rows = [row_bytes(pack(u >= 0), correctives) for u, correctives in self.quantized(x)]
        return np.concatenate([np.zeros((0, width), np.uint8), *rows])

    def blocks(self, x: Array) -> Iterator[Array]:
        for u, _ in self.quantized(x):
            yield u

    def values(self, x: Array) -> Array:
        return self.quantize(np.ascontiguousarray(x, np.float32))[0]

    def rounding(self, x: Array) -> Array:
        return np.zeros((len(x), self.n_bits))

    def undetermined(self, x: Array, precision: Precision = "float32") -> Array:
        check_shape(x, self.dim)
        return np.zeros((len(x), self.n_bits), bool)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in part_names(self)}  # without what is cached

    def to(self, device: str, precision: Precision = "float32") -> HashFunction:
        return self


def planes_within(method: Any, dim: int, most: int) -> None:
    """Raise ValueError unless a method's n_bits is d, 2 d, … or `most` times d."""
    if method.n_bits % dim or not 0 < method.n_bits <= most * dim:
        few = ", ".join(str(dim * planes) for planes in range(1, min(most, 4) + 1))
        raise ValueError(
            f"expected n_bits as a multiple of d = {dim}, up to {most} bits a coordinate, "
            f"found n_bits = {method.n_bits}: ask for {few}{' or more' if most > 4 else ''} bits"
        )
