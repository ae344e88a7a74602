"""Bootstrap intervals of means over queries."""

import numpy as np

from ..mapreduce import Array


def bootstrap_interval(values: Array, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """Return the bounds (low, high) of the 95 % percentile bootstrap interval of a mean over queries.

    NaNs among the values (q,) are ignored; raises ValueError if all are NaN. To compare two codes, pass the differences
    of a metric over the same queries. The same seed gives the same interval.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics, 1979.

    >>> bootstrap_interval(np.array([0.5, 0.5, np.nan]), seed=0)
    (0.5, 0.5)
    """
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("expected at least one value that is not NaN, found none")
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
