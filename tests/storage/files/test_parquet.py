"""Parquet files of others: damaged ones are refused in one line."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.files import parquet


def test_a_footer_with_any_byte_changed_is_read_or_refused_in_one_line(tmp_path):
    path, refused = tmp_path / "s.parquet", []
    pq.write_table(pa.table({"id": [1, 2], "vector": [[1.0, 2.0]] * 2}), path)
    content = path.read_bytes()
    for place in range(len(content) - 8 - int.from_bytes(content[-8:-4], "little"), len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            parquet.open_parquet(str(path))
        except ValueError as error:
            refused.append(str(error))
    line = re.compile(rf"{re.escape(str(path))} is not a Parquet file: [^\n]*")
    assert len(refused) > 100
    assert all(line.fullmatch(message) for message in refused)


def test_vectors_are_read_beside_other_columns_in_any_order(tmp_path):
    url, x = str(tmp_path / "s.parquet"), np.arange(300.0).reshape(100, 3)
    table = pa.table({"labels": [[1]] * 100, "vector": list(x), "unused": ["u"] * 100, "id": np.arange(100)})
    pq.write_table(table, url, row_group_size=30)
    found = [(batch, x.copy()) for batch, x, _ in parquet.read_vectors(url, "vector", 3, ["id", "labels"], 40)]
    assert [len(batch) for batch, _ in found] == [40, 40, 20]
    np.testing.assert_array_equal(np.concatenate([batch["id"].to_numpy() for batch, _ in found]), np.arange(100))
    vectors = [vectors for _, vectors in found]
    assert all(type(part) is np.ndarray and part.dtype == np.float32 and part.flags.writeable for part in vectors)
    np.testing.assert_array_equal(np.concatenate(vectors), x)


def test_pyarrow_reads_the_vectors_from_the_first_batch_with_a_null(tmp_path):
    url, x = str(tmp_path / "s.parquet"), [[float(i), 0.0] for i in range(100)]
    x[70] = [None, 0.0]
    pq.write_table(pa.table({"id": np.arange(100), "vector": x}), url, row_group_size=30)
    found = [
        (batch, vectors.tolist(), type(vectors))
        for batch, vectors, _ in parquet.read_vectors(url, "vector", 2, ["id"], 20)
    ]
    assert [kind is np.ndarray for _, _, kind in found] == [True, True, True, False, False]
    assert [row for _, vectors, _ in found for row in vectors] == [
        row if i != 70 else [None, 0.0] for i, row in enumerate(x)
    ]
    np.testing.assert_array_equal(np.concatenate([batch["id"].to_numpy() for batch, *_ in found]), np.arange(100))


def test_a_batch_is_kept_while_the_next_one_is_read(tmp_path):
    url = str(tmp_path / "s.parquet")
    pq.write_table(pa.table({"id": np.arange(6), "vector": [[float(i)] for i in range(6)]}), url)
    before = None
    for row, (_, x, _) in enumerate(parquet.read_vectors(url, "vector", 1, ["id"], 1)):
        assert before is None or before == row - 1
        before = x


def test_a_damaged_page_is_refused_with_the_row_before_it(tmp_path):
    path, x = tmp_path / "s.parquet", np.random.default_rng(0).random((100, 2))
    table = pa.table({"id": np.arange(100), "vector": list(x)})
    pq.write_table(table, path, row_group_size=50, compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    place = content.index(x[60].tobytes())
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(ValueError, match=rf"{path} is damaged after row \d+: .*CRC checksum"):
        list(parquet.read_vectors(str(path), "vector", 2, ["id"], 10))
