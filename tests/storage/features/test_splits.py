"""Splits written as shards."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.features.dataset import write_split
from storage.files import filesystem
from storage.formats import FeatureRows
from tests.conftest import blobs


def rows(batch):
    return FeatureRows(batch.ids, batch.x)


def test_a_number_that_is_not_finite_is_reported_with_its_row_in_the_split(tmp_path):
    x = np.zeros((30, 2), np.float32)
    x[23, 1] = np.nan
    blocks = [FeatureRows(np.arange(i, i + 5), x[i : i + 5]) for i in range(0, 30, 5)]
    with pytest.raises(ValueError, match=r"cannot write row 23 to .*00001\.parquet: expected finite numbers"):
        write_split(str(tmp_path), blocks, rows_per_shard=17)


def test_splits_are_cut_into_shards_of_a_size(tmp_path):
    batch = blobs(1050, 16)
    blocks = [rows(batch.take(slice(i, i + 77))) for i in range(0, 1050, 77)]
    found = write_split(str(tmp_path), blocks, rows_per_shard=250)
    assert (found.kind, found.dim, found.labelled, found.rows) == ("vector", 16, False, 1050)
    entries = filesystem.listing(str(tmp_path), ".parquet")
    assert [pq.read_metadata(entry.url).num_rows for entry in entries] == [250, 250, 250, 250, 50]
    np.testing.assert_array_equal(np.concatenate([pq.read_table(e.url)["id"].to_numpy() for e in entries]), batch.ids)


def test_splits_refuse_what_is_not_finite_and_what_is_not_there(tmp_path):
    batch = blobs(10, 16)
    batch.x[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"cannot write row 3 to .*: expected finite numbers, found NaN or infinity"):
        write_split(str(tmp_path), [rows(batch)])
    with pytest.raises(ValueError, match=r"expected rows to write to .*, found none"):
        write_split(str(tmp_path), [])
    with pytest.raises(ValueError, match="expected rows like the first ones"):
        write_split(str(tmp_path), [rows(blobs(4, 16)), rows(blobs(4, 17))], rows_per_shard=4)
