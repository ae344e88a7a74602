"""Code health against numpy, for any cut into shards."""

import numpy as np
import pytest

from hashing import bits
from hashing.evaluation.health import CodeHealth
from hashing.mapreduce import Batch
from tests.hashing.evaluation.test_histograms import over


@pytest.mark.parametrize("n_shards", [1, 4, 7])
def test_health_equals_numpy(n_shards):
    values = (np.random.default_rng(5).random((500, 20)) < 0.3).astype(float)
    health = over(CodeHealth(20), Batch(np.arange(500), bits.pack(values > 0)), n_shards)
    correlation = np.corrcoef(values.T) - np.eye(20)
    np.testing.assert_allclose(health.balance, values.mean(axis=0))
    assert health.correlation == pytest.approx(abs(correlation).max())
    np.testing.assert_allclose(health.correlations, correlation + np.eye(20), atol=1e-12)
    p = values.mean(axis=0)
    np.testing.assert_allclose(health.entropy, -p * np.log2(p) - (1 - p) * np.log2(1 - p))
    assert health.rows == 500


def test_health_of_constant_bits_and_of_no_rows():
    codes = bits.pack(np.array([[True, False, True], [True, False, False]]))
    health = over(CodeHealth(3), Batch(np.arange(2), codes))
    np.testing.assert_array_equal(health.entropy, [0, 0, 1])
    assert health.correlation == 0
    with pytest.raises(ValueError, match="at least one row"):
        over(CodeHealth(3), Batch(np.arange(0), codes[:0]))


def test_the_state_is_small_and_counts_many_rows():
    assert CodeHealth(4096).zero().nbytes < 1 << 26
    statistic = CodeHealth(2)
    state = statistic.update(statistic.zero(), Batch(np.arange(4), np.array([[0], [1], [3], [3]], np.uint8)))
    for _ in range(40):
        state = statistic.merge(state, state)
    health = statistic.finish(state)
    assert health.rows == 4 << 40
    assert health.correlation == pytest.approx(3**-0.5)
