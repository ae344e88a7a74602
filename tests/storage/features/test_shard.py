"""Shards of features: vectors of any numbers, labels of a vocabulary."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.features.shard import Columns, FeatureShard, WithoutRows
from storage.files import filesystem


def write_shard(path, table, vocabulary=()):
    pq.write_table(table, path)
    file = filesystem.stat(str(path))
    return FeatureShard(file.url, path.name, file.version, 2, Columns(labels="labels"), vocabulary)


def test_labels_outside_the_vocabulary_are_refused(tmp_path):
    table = pa.table({"id": [1], "vector": [[1.0, 2.0]], "labels": [["cat"]]})
    source = write_shard(tmp_path / "l.parquet", table, ("dog",))
    assert source.distinct_labels() == {"cat"}
    with pytest.raises(ValueError, match="expected labels of the table's vocabulary, found 'cat', in"):
        list(source)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2), pa.list_(pa.uint8(), 2)])
def test_any_numbers_serve_as_vectors_and_sliced_batches_too(tmp_path, kind):
    n = 20_001
    x = np.arange(2 * n).reshape(n, 2) % 251
    vectors = pa.array(x.tolist(), kind)
    source = write_shard(tmp_path / "v.parquet", pa.table({"id": np.arange(n), "vector": vectors}))
    batches = list(source)
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches]), x)
    assert {batch.x.dtype for batch in batches} == {np.dtype(np.float32)}
    assert source.rows == n
    rest = np.concatenate([batch.ids for batch in WithoutRows(source, np.array([0, 5, 20_000]))])
    np.testing.assert_array_equal(rest, np.setdiff1d(np.arange(n), [0, 5, 20_000]))
