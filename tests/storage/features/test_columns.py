"""Columns of forms that pyarrow or the format of a file makes special are read whole, or refused in one line."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.features import columns, rows
from storage.features.contract import understand
from storage.features.rows import Columns
from storage.files import arrow_files


@pytest.mark.parametrize("kind", [pa.list_view, pa.large_list_view])
def test_list_views_keep_their_last_rows(kind):
    lists = [[1.0, 2.0], None, [], [3.0, 4.0], [5.0, 6.0]]
    column = pa.array(lists, kind(pa.float32()))
    assert columns.plain(column).to_pylist() == lists
    assert columns.plain(column[3:]).to_pylist() == lists[3:]


def test_fields_that_no_row_of_a_file_has_are_null(tmp_path):
    assert columns.labels_by_row(pa.nulls(2), "f")[0].tolist() == [0, 0, 0]
    for kind, message in {"vector": "expected 3 finite numbers, found null", "text": "a picture or a text"}.items():
        x, errors = columns.usable_rows(pa.nulls(2), 3, "f", kind)
        assert x.shape == (0, 3)
        assert [message in errors[row] for row in range(2)] == [True, True]
    for name, labels in {"a": pa.array([1, 2]), "b": pa.nulls(2)}.items():
        table = pa.table({"id": [ord(name), -ord(name)], "vector": [[0.0, 1.0]] * 2, "tag": labels})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    assert understand({"base": str(tmp_path)}, Columns(labels="tag", x=""), None, "euclidean").dim == 2


def test_a_label_without_a_name_is_refused_by_its_row():
    assert columns.named_labels(pa.array([1, -1, None]), ("a", "b"), "f", 0).to_pylist() == ["b", None, None]
    for labels, row in (([0, None, 2], 12), ([[0, 1], None, [], [1], [0, -2]], 14)):
        with pytest.raises(ValueError, match=rf"from 0 to 1, which have names, found -?2, in row {row} of f"):
            columns.named_labels(pa.array(labels), ("a", "b"), "f", 10)


def test_a_pair_of_files_written_after_ingest_must_match(tmp_path):
    for folder in ("v", "w", "m"):
        (tmp_path / folder).mkdir()
    np.save(url := str(tmp_path / "v" / "e_0.npy"), np.zeros((3, 2)))
    pq.write_table(pa.table({"key": ["a", "b"]}), tmp_path / "m" / "m_0.parquet")
    names = Columns(id="key", keyed=True, metadata="m")
    with pytest.raises(ValueError, match=r"expected as many rows in .*m_0.parquet as in .*e_0.npy, found 2 and 3"):
        list(rows.read_batches(url, ["key", "vector"], names))
    np.save(other := str(tmp_path / "v" / "f_0.npy"), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"expected one file of vectors for .*m_0.parquet, found .*e_0.npy and .*f_0"):
        rows.metadata_files([url, other], names)


def test_damaged_arrow_streams_and_missing_columns_are_named(tmp_path):
    table = pa.table({"id": np.arange(1000)})
    with pa.ipc.new_stream(path := tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=100)
    with pytest.raises(ValueError, match=r"expected the columns vector, found id, in .*a\.arrow"):
        list(arrow_files.read_batches(str(path), ["vector"], 10))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"a\.arrow is damaged after row [1-9]00: "):
        arrow_files.count_rows(str(path))


def test_multi_hot_labels_have_columns_for_the_wanted_classes_only():
    labels = pa.array([[2, 7], None, [], [9], [0, 100_000]], pa.list_(pa.int32()))
    for classes in (range(100_001), (0, 7, 50_000), (7, 100_000), (3,)):
        expected = [[int(label in (row or ())) for label in classes] for row in labels.to_pylist()]
        np.testing.assert_array_equal(columns.multi_hot_labels(labels, classes), expected)
