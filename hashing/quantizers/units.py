"""The rows that quantizers learn from, and the units of float16 correctives."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..mapreduce import Array, Batch, Data, Metric, Shard
from ..neighbours.exact import unit_vectors


@dataclass(frozen=True)
class UnitRows:
    """The rows of a shard, scaled to length one."""

    shard: Shard

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.shard:
            yield batch._replace(x=unit_vectors(batch.x.astype(np.float32, copy=False)))


def comparable(data: Data) -> Data:
    """Return the rows as their metric compares them: by cosine, scaled to length one."""
    return replace(data, shards=list(map(UnitRows, data.shards))) if data.metric == "cosine" else data


def symmetric_levels(bits: int) -> Array:
    """Return k - (2^bits - 1) / 2 for all levels k."""
    levels: Array = np.arange(2**bits) - (2**bits - 1) / 2
    return levels


def units(metric: Metric, values: Array, centre: Array, variance: float) -> dict[str, Any]:
    """Return the fields of a quantizer that its float16 correctives need.

    `values` are those of the levels, for one coordinate; `variance` is the mean squared distance from the mean `centre`
    (d,). Rows at about its root from the mean then have correctives of about 1. float16 reaches 65,504: rows that are
    thousands of times as far do not fit.
    """
    length = float(np.linalg.norm(centre))
    spread = max(np.sqrt(variance), 1e-3 * length)  # rows that are all equal have none
    step = spread / np.sqrt(len(centre) * np.mean(np.square(values)))
    term = spread if metric == "euclidean" else spread * length
    return {"metric": metric, "step_unit": _power_of_two(step), "term_unit": _power_of_two(term)}


def _power_of_two(value: float) -> float:
    """Return the power of two below a value, in which division loses nothing; 1 for 0."""
    return float(np.ldexp(1.0, np.frexp(value)[1] - 1)) if value else 1.0
