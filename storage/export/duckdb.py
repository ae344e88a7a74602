"""Export codes for DuckDB: a Parquet file, and SQL."""

from pathlib import Path

from .rows import VersionRows, code_bytes

SQL = """\
-- duckdb {table}.duckdb < load.sql, in this folder
CREATE TABLE "{table}" AS SELECT * REPLACE (left(code::BIT::VARCHAR, {n_bits})::BIT AS code) FROM 'codes.parquet';
CREATE MACRO nearest(query, k) AS TABLE
    SELECT id, bit_count(xor(code, query::BIT)) AS distance FROM "{table}" ORDER BY distance, id LIMIT k;
-- FROM nearest('0101…', 10);
"""


def write(rows: VersionRows, place: Path) -> None:
    """Write codes.parquet and load.sql, which turns the bytes of a code into BIT: character j is bit j."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (place / "load.sql").write_text(SQL.format(table=rows.table, n_bits=rows.n_bits))
    with pq.ParquetWriter(str(place / "codes.parquet"), rows.schema, compression="zstd") as file:
        for batch in rows:
            codes = code_bytes(batch, rows.n_bits, big_endian=True)
            code = pa.FixedSizeBinaryArray.from_buffers(batch["code"].type, len(codes), [None, pa.py_buffer(codes)])
            file.write_batch(batch.set_column(1, "code", code))
