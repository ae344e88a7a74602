"""Results as Parquet files: search results, and rows of any kind."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from .files import filesystem, parquet


def write_search_results(url: str, blocks: Iterable[Mapping[str, Any]], about: Mapping[str, str]) -> int:
    """Write search results atomically as columns query, rank, id, distance and others, and return the number of rows.

    The rank (int32) counts from 1 within a query.

    Parameters
    ----------
    blocks
        Columns, each (m,), sorted by query and distance: query, int64; id, int64; distance, int32 or float64; others of
        any Arrow type. The rows of one query are in one block.
    about
        File metadata, stored as hashkiln.<name>.

    Raises
    ------
    ValueError
        If there is no block.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows, writer = 0, None
    with filesystem.create(url) as file:
        for block in blocks:
            table = pa.table({"query": block["query"], "rank": _ranks(block["query"]), **block})
            if writer is None:
                schema = table.schema.with_metadata({f"hashkiln.{name}": value for name, value in about.items()})
                writer = pq.ParquetWriter(file, schema, compression="zstd")
            writer.write_table(table.replace_schema_metadata(writer.schema.metadata))
            rows += len(table)
        if writer is None:
            raise ValueError(f"no search results to write to {url}")
        writer.close()
    return rows


def _ranks(query: Array) -> Array:
    """Return (m,) int32: 1, 2, … within each run of rows of the same query."""
    starts = np.flatnonzero(np.diff(query, prepend=query[:1] - 1))
    lengths = np.diff(starts, append=len(query))
    return (np.arange(len(query)) - np.repeat(starts, lengths) + 1).astype(np.int32)


def to_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows with the same fields, nested or not, as the content of a Parquet file, without empty fields."""
    import pyarrow as pa

    table = pa.Table.from_pylist([dict(row) for row in rows])
    empty = [name for name in table.column_names if table.schema.field(name).type == pa.struct([])]
    return parquet.to_bytes(table.drop_columns(empty))
