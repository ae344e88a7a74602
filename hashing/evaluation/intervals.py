"""Bootstrap intervals of means over queries."""

import numpy as np

from ..mapreduce import Array


def bootstrap_interval(values: Array, seed: int, level: float = 0.95, resamples: int = 1000) -> tuple[float, float]:
    """(low, high) percentile interval of the mean over queries (Efron, 1979); NaN are left out.

    Give the differences of two metrics over the same queries to compare two codes.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("expected at least one value that is not NaN, found none")
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
