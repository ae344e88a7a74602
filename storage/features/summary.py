"""What a split holds, described for the user from its footers and first rows."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from ..formats import Kind
from . import all_rows, columns, media, rows
from .footers import Footer
from .rows import Columns

PICTURES = 16  # pictures to look at
MANY = 1000  # labels


class OpenSplit(NamedTuple):
    """What the files of a split hold."""

    url: str  # of the first file with rows
    schema: Any
    first: Any  # its first rows, a record batch
    footers: dict[str, Footer]  # by the URL of the file
    bytes: int

    @property
    def rows(self) -> int:
        return sum(footer.rows for footer in self.footers.values())


class SplitSummary(BaseModel):
    """A description of a split, for the user."""

    model_config = ConfigDict(frozen=True)

    rows: int
    files: int
    bytes: int
    ids: str
    x: str  # vectors, pictures or texts
    labels: str


def summarize(split: OpenSplit, names: Columns, kind: Kind, dim: int) -> SplitSummary:
    """Return what a split holds, read with the columns of the dataset."""
    first, ids = split.first, "rows without ids, numbered in the order of the file names"
    if not names.numbered:
        ids = f"{'keys' if names.keyed else 'ids'} ({_type_name(first[names.id].type)}) in column {names.id}"
        ids += _unchecked(split)
    what = {"vector": f"vectors of dimension {dim}", "image": "pictures", "text": "texts"}[kind]
    if kind == "image":
        what += _first_picture(first[names.x])
    stored = f"bytes as {names.dtype}" if names.dtype else _type_name(first[names.x].type)
    return SplitSummary(
        rows=split.rows,
        files=len(split.footers),
        bytes=split.bytes,
        ids=ids,
        x=f"{what} ({stored}) in column {names.x}",
        labels=_label_summary(split, names),
    )


def _type_name(column_type: Any) -> str:
    """Return the name of an Arrow type, for messages."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(column_type, pa.BaseExtensionType):
        if columns.is_list(column_type.storage_type):
            return f"tensors of {_type_name(column_type.storage_type.value_type)}"
        return str(column_type.extension_name).removeprefix("arrow.")
    if types.is_dictionary(column_type):
        return _type_name(column_type.value_type)
    if columns.is_list(column_type):
        return f"lists of {_type_name(column_type.value_type)}"
    if types.is_struct(column_type):
        return f"structs with {media.BYTES}" if media.kind(column_type) else "structs"
    return {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(column_type), str(column_type))


def _first_picture(column: Any) -> str:
    """Return size, format and mode of the first picture that can be opened, as Pillow names them."""
    for content in media.encoded(column)[:PICTURES].to_pylist():
        with suppress(Exception), media.without_warnings(), media.opened(content) as picture:
            return f", the first {picture.width} x {picture.height} {picture.format} {picture.mode}"
    return ""


def _label_summary(split: OpenSplit, names: Columns) -> str:
    if not names.labels:
        unread = [name for name in ("labels", "label") if name in split.schema.names]
        unread += rows.folder_values(split.url)
        return f"none; column {unread[0]} is not read without --label-column {unread[0]}" if unread else "none"
    column = split.first[names.labels]
    _, values = columns.labels_by_row(column, split.url, names.multi_hot)
    distinct = len(values.unique())
    how = f"multi-hot of width {names.multi_hot}" if names.multi_hot else f"values ({_type_name(column.type)})"
    where = "in the names of the folders" if names.label_folders else f"in column {names.labels}"
    found = f"{distinct:,} distinct in the first {len(column):,} rows"
    if distinct > max(MANY, len(values) // 2):
        found += ", so few rows share one: leave out --label-column if these are values rather than classes"
    return f"{how} {where}; {found}{_unchecked(split)}"


def _unchecked(split: OpenSplit) -> str:
    checked = all_rows.CHECKED
    return f"; reindex checks those after the first {checked:,} rows" if split.rows > checked else ""
