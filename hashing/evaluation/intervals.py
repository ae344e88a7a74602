"""Bootstrap intervals of means over queries."""

import numpy as np

from ..mapreduce import Array


def bootstrap_interval(values: Array, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """Return the bounds (low, high) of the 95 % percentile bootstrap interval of a mean over queries.

    To compare two codes, pass the differences of a metric over the same queries.

    Source: Efron, "Bootstrap Methods: Another Look at the Jackknife", Annals of Statistics, 1979.

    Parameters
    ----------
    values
        (q,) float; NaNs are ignored.
    seed
        Random seed. The same seed gives the same interval.
    resamples
        Number of bootstrap samples.

    Raises
    ------
    ValueError
        If all values are NaN.

    Examples
    --------
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
