"""Bootstrap intervals of means over queries."""

import numpy as np

from ..mapreduce import Array


def bootstrap_interval(values: Array, seed: int, level: float = 0.95, resamples: int = 1000) -> tuple[float, float]:
    """Return the bounds (low, high) of the percentile bootstrap interval of a mean over queries.

    To compare two codes, pass the differences of a metric over the same queries.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics, 1979.

    Parameters
    ----------
    values : (q,) float; NaN are left out
    seed : random seed; the same seed gives the same interval
    level : confidence level
    resamples : number of bootstrap samples

    Raises
    ------
    ValueError : where all values are NaN
    """
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("expected at least one value that is not NaN, found none")
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
