"""Export codes for PostgreSQL and its extension pgvector: a CSV file for COPY, and SQL."""

from pathlib import Path
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from .rows import VersionRows, bit_array

SCHEMA = """\
-- For PostgreSQL 14 or newer, with or without pgvector. Then load the rows, in psql:
-- \\copy "{table}" FROM 'codes.csv' WITH (FORMAT csv, HEADER)
CREATE TABLE "{table}" (
    {columns}
);
"""
INDEX = """\
-- After loading. Needs pgvector 0.7 or newer.
CREATE EXTENSION IF NOT EXISTS vector;
CREATE INDEX ON "{table}" USING hnsw (code bit_hamming_ops);
-- Through the index:            SELECT id, code <~> B'01…' AS distance FROM "{table}" ORDER BY 2 LIMIT 10;
-- Exact, also without pgvector: SELECT id, bit_count(code # B'01…') AS distance FROM "{table}" ORDER BY 2, 1 LIMIT 10;
"""


def write(rows: VersionRows, place: Path) -> None:
    """Write codes.csv, schema.sql and index.sql. Codes are text for bit(n): character j is bit j."""
    import pyarrow as pa
    from pyarrow import csv

    schema = pa.schema([(name, pa.string() if name != "id" else pa.int64()) for name in rows.schema.names])
    types = {"id": "bigint PRIMARY KEY", "code": f"bit({rows.n_bits}) NOT NULL", "labels": "text[]", "key": "text"}
    if rows.has_integer_labels:
        types["labels"] = "bigint[]"
    columns = ",\n    ".join(f"{name} {types[name]}" for name in schema.names)
    (place / "schema.sql").write_text(SCHEMA.format(table=rows.table, columns=columns))
    (place / "index.sql").write_text(INDEX.format(table=rows.table))
    with csv.CSVWriter(str(place / "codes.csv"), schema) as file:
        for batch in rows:
            arrays = [batch["id"], _texts(bit_array(batch, rows.n_bits))]
            if rows.vocabulary:
                arrays.append(pa.array([_array_text(labels) for labels in batch["labels"].to_pylist()], pa.string()))
            if rows.keys:
                arrays.append(batch["key"])
            file.write_batch(pa.record_batch(arrays, schema=schema))


def _texts(bits: Array) -> Any:
    """Return bits (n, n_bits) as an Arrow array of strings of 0 and 1."""
    import pyarrow as pa

    offsets = np.arange(0, bits.size + 1, bits.shape[1], dtype=np.int32)
    return pa.StringArray.from_buffers(len(bits), pa.py_buffer(offsets), pa.py_buffer(bits + np.uint8(ord("0"))))


def _array_text(values: list[str | int]) -> str:
    """Return a list as the text of a PostgreSQL array."""
    quoted = ['"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"' for value in values]
    return "{" + ",".join(quoted) + "}"
