"""Splits as shards: rows are cut into groups, and each group is written atomically to one Parquet file."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..files import filesystem
from ..formats import FeatureRows, Kind
from . import media

SHARD_ROWS, SHARD_BYTES = 125_000, 2**25  # limits of a shard, in float32: few wide rows are also cut into shards


class SplitShape(NamedTuple):
    """Kind, dimension and size of rows that were written."""

    kind: Kind
    dim: int | None  # None for images and texts
    labelled: bool
    rows: int


def cut_into_shards(blocks: Iterable[FeatureRows], n: int | None) -> Iterator[list[FeatureRows]]:
    """Yield the rows of blocks in groups of n; the last group may be shorter. The default n follows from the limits."""
    group: list[FeatureRows] = []
    count = 0
    for block in blocks:
        if not n:
            n = min(SHARD_ROWS, max(1, SHARD_BYTES // _row_bytes(block)))
        while count + len(block.ids) >= n:
            yield [*group, _slice(block, 0, n - count)]
            block, group, count = _slice(block, n - count, len(block.ids)), [], 0
        if len(block.ids):
            group.append(block)
            count += len(block.ids)
    if group:
        yield group


def _row_bytes(rows: FeatureRows) -> int:
    """Return the bytes of a row; for images and texts, those of the longest one."""
    if isinstance(rows.x, np.ndarray):
        return 4 * rows.x[0].size if len(rows.x) else 1
    return max((len(x) for x in rows.x), default=0) or 1


def _slice(rows: FeatureRows, start: int, stop: int) -> FeatureRows:
    labels = None if rows.labels is None else rows.labels[start:stop]
    names = None if rows.names is None else rows.names[start:stop]
    keys = None if rows.keys is None else rows.keys[start:stop]
    return FeatureRows(rows.ids[start:stop], rows.x[start:stop], labels, names, keys)


def write_shard(url: str, blocks: list[FeatureRows], first_row: int) -> SplitShape:
    """Write one shard atomically. `first_row` is the number of its first row in the split, for messages."""
    import pyarrow as pa

    starts = first_row + np.cumsum([0, *(len(block.ids) for block in blocks)])
    table = pa.concat_tables([_table(block, url, int(row)) for block, row in zip(blocks, starts, strict=False)])
    write_table(url, table)
    kind: Any = table.schema.names[1]
    dim = table.schema.types[1].list_size if kind == "vector" else None
    return SplitShape(kind, dim, "labels" in table.schema.names, len(table))


def write_table(url: str, table: Any) -> None:
    """Write an Arrow table of ids or keys, of vectors, pictures or texts, and of labels, atomically to Parquet."""
    import pyarrow.parquet as pq

    vector, dictionaries = "vector.list.element", ["labels.list.element"]
    column = table.schema.field(1)
    if column.name == "vector" and column.type.value_type.bit_width == 8:
        dictionaries.append(vector)  # Parquet has no integers of fewer than 32 bits
    compression = dict.fromkeys(("id", "key", "image", "text", "labels.list.element"), "zstd")
    with filesystem.create(url) as file:
        pq.write_table(
            table,
            file,
            row_group_size=2**15,
            compression={**compression, vector: "none"},  # zstd would save a tenth, and be five times slower to read
            use_dictionary=dictionaries,
            write_page_index=True,  # to rerank, single pages are read
        )


def _table(rows: FeatureRows, url: str, first_row: int) -> Any:
    import pyarrow as pa

    if isinstance(rows.x, np.ndarray):
        x = np.ascontiguousarray(rows.x)
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            row = first_row + int(np.flatnonzero(~np.isfinite(x).all(1))[0])
            raise ValueError(f"cannot write row {row} to {url}: expected finite numbers, found NaN or infinity")
        values = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
        name = "vector"
    else:
        name = "text" if isinstance(rows.x[0], str) else "image"
        values = pa.array(rows.x)
        for row, content in enumerate(rows.x if name == "image" else ()):
            _check_picture(content, rows.names[row] if rows.names else f"row {first_row + row} of {url}")
    ids = pa.array(rows.ids, pa.int64()) if rows.keys is None else pa.array(rows.keys, pa.string())
    id_name = "id" if rows.keys is None else "key"
    fields = [pa.field(id_name, ids.type, nullable=False), pa.field(name, values.type, nullable=False)]
    arrays = [ids, values]
    if rows.labels is not None:
        named = any(isinstance(label, str) for labels in rows.labels for label in labels)
        arrays.append(pa.array(rows.labels, pa.list_(pa.string() if named else pa.int64())))
        fields.append(pa.field("labels", arrays[-1].type))
    return pa.table(arrays, schema=pa.schema(fields))


def _check_picture(content: Any, where: str) -> None:
    """Raise ValueError unless an image can be decoded. Checked at ingest, when its own name is known."""
    try:
        media.pixels(content, media.dim("image"))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
