"""Splits written as shards."""

from __future__ import annotations

import numpy as np
import pytest

from storage.features.dataset import write_split
from storage.formats import FeatureRows


def test_a_number_that_is_not_finite_is_reported_with_its_row_in_the_split(tmp_path):
    x = np.zeros((30, 2), np.float32)
    x[23, 1] = np.nan
    blocks = [FeatureRows(np.arange(i, i + 5), x[i : i + 5]) for i in range(0, 30, 5)]
    with pytest.raises(ValueError, match=r"cannot write row 23 to .*00001\.parquet: expected finite numbers"):
        write_split(str(tmp_path), blocks, rows_per_shard=17)
