"""Results as Parquet: what a search found, (query, rank, id, distance), and rows of any kind."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from .files import filesystem


def write_found(url: str, blocks: Iterable[tuple[Array, Array, Array]], about: Mapping[str, str]) -> int:
    """Write blocks of (query, id, distance), each (m,) and sorted by query, whole or not at all. How many rows.

    query and id are int64; rank is int32 and counts from 1 within a query, which never lies in two blocks; distance is
    int32 or float64, as it comes. `about` goes into the file's metadata, as hashkiln.<name>.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, writer = 0, None
    with filesystem.create(url) as file:
        for query, ids, distance in blocks:
            table = pa.table({"query": query, "rank": _ranks(query), "id": ids, "distance": distance})
            if writer is None:
                schema = table.schema.with_metadata({f"hashkiln.{name}": value for name, value in about.items()})
                writer = pq.ParquetWriter(file, schema, compression="zstd")
            writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
            rows += len(query)
        if writer is None:
            raise ValueError(f"expected at least one block of results for {url}, found none")
        writer.close()
    return rows


def _ranks(query: Array) -> Array:
    """1, 2, … within each run of one query, (m,) int32."""
    starts = np.flatnonzero(np.diff(query, prepend=query[:1] - 1))
    lengths = np.diff(starts, append=len(query))
    return (np.arange(len(query)) - np.repeat(starts, lengths) + 1).astype(np.int32)


def table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows with the same fields, nested or not, as the content of a Parquet file. Empty fields are left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found, file = pa.Table.from_pylist([dict(row) for row in rows]), io.BytesIO()
    empty = [name for name in found.column_names if found.schema.field(name).type == pa.struct([])]
    pq.write_table(found.drop_columns(empty), file, compression="zstd")
    return file.getvalue()
