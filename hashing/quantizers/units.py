"""The levels of quantizers, and the units of float16 correctives."""

from typing import Any

import numpy as np

from ..mapreduce import Array, Metric


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
