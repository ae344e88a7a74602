"""Parquet files of others: damaged ones are refused in one line."""

import re

import pyarrow as pa
import pyarrow.parquet as pq

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
