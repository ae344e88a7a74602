"""What a dataset is understood to hold, from the schemas and first rows of all splits, before anything is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from ..files import filesystem, parquet
from ..formats import Kind
from . import columns, keys, media
from .shard import Columns

FIRST_ROWS = 4096  # rows of a split that are read
PICTURES = 16  # of these, pictures that are decoded
FOOTERS = 16  # footers that are read at a time
VECTORS, IDS = ("vector", "image", "text"), "id"  # columns that are read unless others are named


class SourceRefused(ValueError):
    """A source that cannot be read, or not as asked. Nothing was written."""


@contextmanager
def refusing() -> Iterator[None]:
    """Raise the ValueErrors of the block as SourceRefused."""
    try:
        yield
    except ValueError as error:
        raise SourceRefused(str(error)) from None


class SplitSummary(BaseModel):
    """What a split holds, in words for the user."""

    model_config = ConfigDict(frozen=True)

    rows: int
    files: int
    bytes: int
    ids: str
    x: str  # vectors, pictures or texts
    labels: str


class Contract(NamedTuple):
    """What a dataset is understood to hold."""

    kind: Kind
    dim: int  # d of vectors; of pictures and texts, the numbers that each is read as
    columns: Columns
    splits: dict[str, SplitSummary]


class _Split(NamedTuple):
    """A split, as its files show it."""

    url: str  # of the first file with rows
    schema: Any
    first: Any  # its first rows, a record batch
    files: int
    bytes: int
    rows: int


@refusing()
def understand(splits: Mapping[str, str], given: Columns, labels_as: str | None, metric: str) -> Contract:
    """Return what the Parquet files of some splits hold.

    Parameters
    ----------
    splits
        Split -> URL of a file or folder; one of them is "base".
    given
        The columns that the user named; an empty name of x stands for the first of VECTORS that is there.
    labels_as
        "values", "multi-hot", or None if the user did not say: lists that can be read as either are then refused.
    metric
        By "hamming", vectors must be of 0 and 1.

    Raises
    ------
    SourceRefused
        If a file lacks a column, or holds another type, kind or dimension than the first file of the base split; if
        first rows cannot be read; and where two readings are possible and the user did not decide.
    FileNotFoundError
        If a split has no files.
    """
    names = given.model_copy(update={"x": given.x or _default_x(splits["base"])})
    found = {split: _open_split(url, names) for split, url in splits.items()}
    base = found["base"]
    names = names.model_copy(update={"multi_hot": _multi_hot_width(base, names, labels_as)})
    kind, dim = _kind_and_dim(base, names)
    for split in found.values():
        _check_first_rows(split, names, kind, dim, metric)
    summaries = {split: _summary(found[split], names, kind, dim) for split in splits}
    return Contract(kind, dim, names, summaries)


def _open_split(url: str, names: Columns) -> _Split:
    """Read the footers of all files and the first rows of the first file that has any; check the columns."""
    files = filesystem.listing(url, ".parquet")
    with ThreadPoolExecutor(FOOTERS) as pool:
        footers = list(pool.map(lambda file: _footer(file.url), files))
    first = next((i for i, (rows, _) in enumerate(footers) if rows), None)
    if first is None:
        raise ValueError(f"expected at least one row, found none in {url}")
    schema = footers[first][1]
    wanted = [name for name in (names.id, names.x, names.labels) if name]
    for file, (_, other) in zip(files, footers, strict=True):
        for name in wanted:
            _check_column(other, schema, name, file.url, files[first].url)
    rows = next(parquet.read_batches(files[first].url, wanted, FIRST_ROWS))
    total = sum(count for count, _ in footers)
    return _Split(files[first].url, schema, rows, len(files), sum(file.size for file in files), total)


def _footer(url: str) -> tuple[int, Any]:
    file = parquet.open_parquet(url)
    return file.metadata.num_rows, file.schema_arrow


def _check_column(schema: Any, first: Any, name: str, url: str, first_url: str) -> None:
    """Raise ValueError if a file lacks a column, or has it as another kind than the first file with rows."""
    field, expected = parquet.field_of(schema, name), parquet.field_of(first, name)
    if field is None or expected is None:
        where, names = (url, schema.names) if field is None else (first_url, first.names)
        raise ValueError(f"expected a column {name}, found {', '.join(names)}, in {where}: {_option(name)}")
    if _shape(field.type) != _shape(expected.type):
        raise ValueError(f"column {name}: expected {expected.type} as in {first_url}, found {field.type}, in {url}")


def _option(name: str) -> str:
    return "name yours by --id-column or --key-column" if name == IDS else "name yours by --vector-column"


def _shape(column_type: Any) -> tuple[Any, ...]:
    """Return what must be the same in all files: kind of the rows, and size of vectors if the type fixes it."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(column_type, pa.BaseExtensionType):
        column_type = column_type.storage_type
    if types.is_dictionary(column_type):
        column_type = column_type.value_type
    if columns.is_list(column_type):
        return ("list", columns.is_number(column_type.value_type))
    return (media.kind(column_type) or types.is_integer(column_type),)


def _default_x(url: str) -> str:
    """Return the first of VECTORS that the first file has; raise ValueError if it has none of them."""
    first = filesystem.listing(url, ".parquet")[0].url
    found = _footer(first)[1].names
    for name in VECTORS:
        if name in found:
            return name
    expected = f"{', '.join(VECTORS[:-1])} or {VECTORS[-1]}"
    raise ValueError(
        f"expected a column {expected}, found {', '.join(found)}, in {first}: name yours by --vector-column"
    )


def _kind_and_dim(base: _Split, names: Columns) -> tuple[Kind, int]:
    """Return the kind of rows and their dimension, from the first row that is not null."""
    import pyarrow.compute as pc

    column = base.first[names.x]
    kind = media.kind(column.type)
    if kind and not (names.dtype and kind == "image"):
        return kind, media.dim(kind)
    if names.dtype and kind != "image":
        raise ValueError(f"--vector-dtype is for bytes, found {column.type} in column {names.x} of {base.url}")
    lists = columns.number_lists(column, names.dtype, f"column {names.x} of {base.url}")
    lengths = pc.list_value_length(lists).drop_null()
    if not len(lengths) or not lengths[0].as_py():
        raise ValueError(f"expected vectors, found only null or empty ones in column {names.x} of {base.url}")
    return "vector", lengths[0].as_py()


def _multi_hot_width(base: _Split, names: Columns, labels_as: str | None) -> int:
    """Return the width of multi-hot labels, 0 for labels that are values. Raises ValueError if both are possible."""
    if not names.labels:
        if labels_as:
            raise ValueError("--labels-as applies to labels: name their column by --label-column")
        return 0
    where = f"column {names.labels} of {base.url}"
    column = base.first[names.labels]
    columns.check_label_type(column.type, where)
    if not columns.is_list(column.type):
        if labels_as == "multi-hot":
            raise ValueError(f"expected lists of 0 and 1 as multi-hot labels, found {column.type} in {where}")
        return 0
    rows = [row for row in column.to_pylist() if row]
    width = len(rows[0]) if rows else 0
    alike = width > 1 and all(len(row) == width and set(row) <= {0, 1} for row in rows)
    if labels_as == "multi-hot":
        if not alike:
            raise ValueError(f"expected lists of 0 and 1, all of one length, as multi-hot labels, in {where}")
        return width
    if alike and labels_as is None:
        raise ValueError(
            f"{where}: lists of {width} numbers 0 and 1 can be multi-hot labels or the labels 0 and 1: "
            "pass --labels-as multi-hot or --labels-as values"
        )
    return 0


def _check_first_rows(split: _Split, names: Columns, kind: Kind, dim: int, metric: str) -> None:
    """Raise ValueError if the first rows of a split cannot be read like those of the base split."""
    where, rows = split.url, split.first
    ids = keys.plain_keys(rows[names.id]) if names.keyed else columns.ids(rows[names.id], where)
    _check_distinct(ids, names, where)
    few = rows[names.x][:PICTURES] if kind == "image" else rows[names.x]
    x, errors = columns.usable_rows(few, dim, where, kind, names.dtype, metric)
    if metric == "hamming" and not np.isin(x, (0, 1)).all():
        raise ValueError(f"expected vectors of 0 and 1, compared by hamming, found others in {where}")
    if len(errors) == len(few):  # a run can drop some bad rows, but not all
        hint = "" if kind != "image" or names.dtype else "; vectors stored as bytes need --vector-dtype"
        raise ValueError(f"column {names.x}: {errors[min(errors)]}, in row {min(errors)} of {where}{hint}")
    if names.labels:
        columns.labels_by_row(rows[names.labels], where, names.multi_hot)


def _check_distinct(ids: Any, names: Columns, where: str) -> None:
    values = ids.to_pylist() if names.keyed else ids.tolist()
    if len(set(values)) == len(values):
        return
    seen: dict[Any, int] = {}
    for row, value in enumerate(values):
        if value in seen:
            what = "keys" if names.keyed else "ids"
            raise ValueError(f"expected distinct {what}, found {value!r} in rows {seen[value]} and {row} of {where}")
        seen[value] = row


def _summary(split: _Split, names: Columns, kind: Kind, dim: int) -> SplitSummary:
    rows = split.first
    ids = f"{'keys' if names.keyed else 'ids'} ({_type_name(rows[names.id].type)}) in column {names.id}"
    what = {"vector": f"vectors of dimension {dim}", "image": "pictures", "text": "texts"}[kind]
    if kind == "image":
        what += _first_picture(rows[names.x])
    stored = f"bytes as {names.dtype}" if names.dtype else _type_name(rows[names.x].type)
    return SplitSummary(
        rows=split.rows,
        files=split.files,
        bytes=split.bytes,
        ids=ids,
        x=f"{what} ({stored}) in column {names.x}",
        labels=_label_summary(split, names),
    )


def _type_name(column_type: Any) -> str:
    """Return an Arrow type in the words of a user."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(column_type, pa.BaseExtensionType):
        name = column_type.extension_name.removeprefix("arrow.")
        return name if name == "uuid" else f"tensors of {_type_name(column_type.storage_type.value_type)}"
    if types.is_dictionary(column_type):
        return _type_name(column_type.value_type)
    if columns.is_list(column_type):
        return f"lists of {_type_name(column_type.value_type)}"
    if types.is_struct(column_type):
        return f"structs with {media.BYTES}"
    return {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(column_type), str(column_type))


def _first_picture(column: Any) -> str:
    """Return size, format and mode of the first picture that can be opened, as Pillow names them."""
    import io

    from PIL import Image

    for content in media.encoded(column)[:PICTURES].to_pylist():
        with suppress(OSError, TypeError), Image.open(io.BytesIO(content)) as picture:
            return f", the first {picture.width} x {picture.height} {picture.format} {picture.mode}"
    return ""


def _label_summary(split: _Split, names: Columns) -> str:
    if not names.labels:
        unread = [name for name in ("labels", "label") if name in split.schema.names]
        return f"none; column {unread[0]} is not read without --label-column {unread[0]}" if unread else "none"
    column = split.first[names.labels]
    _, values = columns.labels_by_row(column, split.url, names.multi_hot)
    distinct = len(values.unique())
    how = f"multi-hot of width {names.multi_hot}" if names.multi_hot else f"values ({_type_name(column.type)})"
    return f"{how} in column {names.labels}; {distinct} distinct in the first {len(column):,} rows"
