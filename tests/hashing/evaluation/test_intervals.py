"""Bootstrap intervals against the true mean."""

import numpy as np
import pytest

from hashing.evaluation.intervals import bootstrap_interval


def test_an_interval_covers_the_mean_and_is_reproducible():
    rng = np.random.default_rng(8)
    covered = 0
    for seed in range(200):
        values = rng.exponential(size=100)
        low, high = bootstrap_interval(values, seed, resamples=200)
        assert (low, high) == bootstrap_interval(values, seed, resamples=200)
        covered += low <= 1 <= high
    assert 0.87 < covered / 200 < 0.99
    values = np.array([1.0, np.nan, 3.0])
    low, high = bootstrap_interval(values, 0)
    assert (low, high) == (1, 3)
    with pytest.raises(ValueError, match="not NaN, found none"):
        bootstrap_interval(values[1:2], 0)
