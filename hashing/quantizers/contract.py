"""The contract of quantizers."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..bits import pack
from ..functions import HashFunction, Precision, SignFunction, check_finite, check_shape, part_names
from ..mapreduce import Array, Metric
from ..neighbours.exact import MEASURED
from .estimator import COLUMNS, FLOAT32, Estimator, row_bytes, row_size


@dataclass(frozen=True, eq=False)
class Quantizer(SignFunction):
    """A hash function whose rows have correctives: a few numbers from which distances are estimated.

    A code consists of planes of d bits, the most significant first. With the bits of coordinate j read as an integer
    k_j, the row is approximately mean + low + step k, after a rotation if the quantizer has one.

    With a metric, the correctives are float16, in units that are powers of two: the step of the levels; a term of the
    distance, which is the distance from the mean for the Euclidean metric, and otherwise the inner product of the mean
    and the distance vector; and, if it does not follow from the step, `low`. Without a metric, as in models of hashkiln
    0.2, the correctives are float32 and serve every metric: the step, the squared distance from the mean, the inner
    product, and `low`.

    It runs on the CPU only, with the same order of operations for every row, so its bits and correctives are the same
    on every machine and for every batch.
    """

    step_unit: float = field(default=1.0, kw_only=True)  # of the step and of low
    term_unit: float = field(default=1.0, kw_only=True)
    columns: ClassVar[tuple[str, ...]] = COLUMNS  # names of correctives of a function with a metric, columns of parts
    rows: ClassVar[int] = 1024
    name: ClassVar[str]  # of the method, in reports

    @abstractmethod
    def quantize(self, x: Array) -> tuple[Array, Array]:
        """Return u (n, n_bits), whose signs are the bits, and the correctives (n, c), both float32.

        x is (n, d) float32, and the correctives are those without a metric. The values are checked afterwards.
        """

    @abstractmethod
    def estimator(self, queries: Array, metric: Metric, real: bool = False) -> Estimator:
        """Return the estimator of distances from queries (q, d), rounded to 4 bits a coordinate unless `real`.

        Raises ValueError for queries of another dimension, for another metric than that of the function, or by cosine
        for a query of zeros.
        """

    def estimate_of(self, metric: Metric, real: bool = False) -> str:
        """Return the name of the estimated distance."""
        queries = ", from real-valued queries," if real else ""
        return f"{self.name}'s estimate{queries} of the {MEASURED[metric]}"

    @property
    def correctives(self) -> tuple[str, ...]:
        """The names of the correctives that rows have."""
        return self.columns if self.metric else FLOAT32[self.columns]

    def quantized(self, x: Array) -> Iterator[tuple[Array, Array]]:
        """Yield u and the correctives of successive rows of x (n, d).

        Raises ValueError as `project` does, and for a row that is too far from the mean for float16.
        """
        check_shape(x, self.dim)
        for start in range(0, len(x), self.rows):
            block = x[start : start + self.rows]
            with np.errstate(over="ignore", invalid="ignore"):  # overflow is reported below
                u, correctives = self.quantize(self.compared(block, start))
            check_finite(u, block, start)
            check_finite(correctives, block, start)
            yield u, self._halves(correctives, start) if self.metric else correctives

    def _halves(self, correctives: Array, first_row: int) -> Array:
        step, squared, along, *low = correctives.astype(np.float64).T
        term = np.sqrt(squared) if self.metric == "euclidean" else along
        with np.errstate(over="ignore"):
            values = [step / self.step_unit, term / self.term_unit, *(value / self.step_unit for value in low)]
            halves: Array = np.stack(values, axis=1).astype(np.float16)
        if len(far := np.flatnonzero(np.isinf(halves).any(axis=1))):
            raise ValueError(
                f"row {first_row + far[0]} is thousands of times as far from the mean as the rows that the model was "
                "fitted on: remove it, or fit a model on such rows"
            )
        return halves

    def encode_rows(self, x: Array) -> Array:
        """Return the bytes (n, B + b) uint8 of the codes of x (n, d) and of their correctives, see `row_bytes`."""
        rows = [row_bytes(pack(u >= 0), correctives) for u, correctives in self.quantized(x)]
        return np.concatenate([np.zeros((0, row_size(self.n_bits, self.correctives)), np.uint8), *rows])

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

    @property
    def _units(self) -> tuple[float, float] | None:
        return (self.step_unit, self.term_unit) if self.metric else None

    def check_metric(self, metric: Metric) -> None:
        """Raise ValueError if the function estimates distances by another metric."""
        if self.metric not in ("", metric):
            raise ValueError(
                f"the model estimates the {MEASURED[self.metric or metric]} distance, but rows are now compared by the "
                f"{MEASURED[metric]} distance: fit a model by `reindex --refit always`"
            )


def planes_within(method: Any, dim: int, most: int, fewer: str = "") -> None:
    """Raise ValueError unless a method's n_bits is d, 2 d, … or `most` times d; `fewer` names what else is possible."""
    if method.n_bits % dim or not 0 < method.n_bits <= most * dim:
        few = ", ".join(str(dim * planes) for planes in range(1, min(most, 4) + 1))
        raise ValueError(
            f"expected n_bits {fewer}as a multiple of d = {dim}, up to {most} bits a coordinate, "
            f"found n_bits = {method.n_bits}: ask for {few}{' or more' if most > 4 else ''} bits"
        )
