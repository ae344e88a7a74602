"""Splits written as shards: rows cut into groups, each a Parquet file that is there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from ..files import filesystem
from ..formats import FeatureRows

ROWS, BYTES = 125_000, 2**25  # of a shard at most, vectors as float32: few wide rows busy several workers
Kind = Literal["vector", "image", "text"]


class SplitShape(NamedTuple):
    """What an ingest saw."""

    kind: Kind
    dim: int | None
    labelled: bool
    rows: int


def groups(blocks: Iterable[FeatureRows], n: int | None) -> Iterator[list[FeatureRows]]:
    """The rows of some blocks in groups of n, the last one shorter."""
    held: list[FeatureRows] = []
    count = 0
    for block in blocks:
        if not n:
            n = min(ROWS, max(1, BYTES // _width(block)))
        while count + len(block.ids) >= n:
            yield [*held, _slice(block, 0, n - count)]
            block, held, count = _slice(block, n - count, len(block.ids)), [], 0
        if len(block.ids):
            held.append(block)
            count += len(block.ids)
    if held:
        yield held


def _width(rows: FeatureRows) -> int:
    """Bytes of a row, of a picture or a text as many as the longest has."""
    if isinstance(rows.x, np.ndarray):
        return 4 * rows.x[0].size if len(rows.x) else 1
    return max((len(x) for x in rows.x), default=0) or 1


def _slice(rows: FeatureRows, start: int, stop: int) -> FeatureRows:
    labels = None if rows.labels is None else rows.labels[start:stop]
    return FeatureRows(rows.ids[start:stop], rows.x[start:stop], labels)


def write_shard(url: str, blocks: list[FeatureRows], first_row: int) -> SplitShape:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([_table(block, url, first_row) for block in blocks])
    kind: Any = table.schema.names[1]
    listed = pa.types.is_fixed_size_list(table.schema.types[1])
    with filesystem.create(url) as file:
        pq.write_table(table, file, row_group_size=2**15, compression="zstd", use_dictionary=["labels"])
    dim = table.schema.types[1].list_size if listed else None
    return SplitShape(kind, dim, "labels" in table.schema.names, len(table))


def _table(rows: FeatureRows, url: str, first_row: int) -> Any:
    import pyarrow as pa

    if isinstance(rows.x, np.ndarray):
        x = np.ascontiguousarray(rows.x)
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            row = first_row + int(np.flatnonzero(~np.isfinite(x).all(1))[0])
            raise ValueError(f"expected finite numbers, found NaN or infinity, in row {row} on the way to {url}")
        values = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
        name = "vector"
    else:
        name = "text" if isinstance(rows.x[0], str) else "image"
        values = pa.array(rows.x)
    fields = [pa.field("id", pa.int64(), nullable=False), pa.field(name, values.type, nullable=False)]
    arrays = [pa.array(rows.ids, pa.int64()), values]
    if rows.labels is not None:
        named = any(isinstance(label, str) for labels in rows.labels for label in labels)
        arrays.append(pa.array(rows.labels, pa.list_(pa.string() if named else pa.int64())))
        fields.append(pa.field("labels", arrays[-1].type))
    return pa.table(arrays, schema=pa.schema(fields))
