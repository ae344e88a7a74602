"""List the files of a dataset that is used in place, and read their columns by name, in all supported formats."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict

from hashing.mapreduce import Array

from ..files import arrow_files, filesystem, npy_parts, parquet, samples
from ..files.filesystem import FileVersion
from . import columns as conversion

READERS: dict[str, Any] = {
    ".parquet": parquet, ".arrow": arrow_files, ".feather": arrow_files, ".tar": samples, ".npy": npy_parts,
}  # fmt: skip
NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
BATCH_ROWS = 2**16


class Columns(BaseModel):
    """Column names of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = "id"
    keyed: bool = False  # whether the id column holds keys, which `datasets/<name>/keys/` maps to ids
    numbered: bool = False  # whether rows have no ids, and are numbered in the order of the names of their files
    x: str = "vector"  # or the dotted path of a field in a struct
    metadata: str = ""  # folder of the Parquet files with all other columns, beside that of the .npy files
    labels: str | None = None
    label_folders: Literal["int64", "string"] | None = None  # type of labels that folders named labels=value hold
    label_names: tuple[str, ...] = ()  # names of the labels 0, 1, …; empty if labels are as they are stored
    multi_hot: int = 0  # width of labels that are lists of 0 and 1; 0 if labels are values
    dtype: str | None = None  # dtype of vectors that are stored as bytes


def form(url: str) -> str:
    """Return the suffix of a file, in lower case, if it is one of READERS; else an empty string."""
    return next((suffix for suffix in READERS if url.lower().endswith(suffix)), "")


def data_files(url: str) -> list[FileVersion]:
    """Return the data files below a folder, or the file itself, sorted by URL: those of the first format in READERS.

    Of a Hugging Face dataset, only those that its state.json names. Raises FileNotFoundError if there are none, and
    ValueError if one of these is missing.
    """
    files = filesystem.listing(url)
    for suffix in READERS:
        if found := [file for file in files if form(file.url) == suffix]:
            return _without_caches(found, filesystem.join(url, "state.json"), files) if suffix == ".arrow" else found
    return filesystem.listing(url, ".parquet")


def _without_caches(found: list[FileVersion], state: str, files: Sequence[FileVersion]) -> list[FileVersion]:
    if not any(file.url == state for file in files):
        return found
    named = {data["filename"] for data in json.loads(filesystem.read_bytes(state)).get("_data_files") or ()}
    if missing := named - {file.url.rsplit("/", 1)[-1] for file in found}:
        raise ValueError(f"expected all files that {state} names, found no {min(missing)}")
    return [file for file in found if file.url.rsplit("/", 1)[-1] in named]


def schema(url: str, columns: Columns) -> Any:
    """Return the Arrow schema of a file, including that of its metadata file if there is one."""
    import pyarrow as pa

    found = READERS[form(url)].schema(url)
    if not _has_metadata(url, columns):
        return found
    return pa.schema(
        [*(field for field in parquet.schema(metadata_of(url, columns)) if field.name != "vector"), *found]
    )


def count_rows(url: str) -> int:
    """Return the number of rows in a file."""
    return int(READERS[form(url)].count_rows(url))


def read_batches(url: str, names: Sequence[str], columns: Columns, batch_rows: int = BATCH_ROWS) -> Iterator[Any]:
    """Yield some columns of a file as record batches of at most `batch_rows` rows.

    Labels in folder names are a column, and integer labels that have names are replaced by these. Raises ValueError for
    a file that lacks a column or is damaged.
    """
    stored = [name for name in names if name != columns.labels or not columns.label_folders]
    row = 0
    for part in _stored(url, stored, columns, batch_rows) if stored else _empty(url, batch_rows):
        yield _with_labels(part, names, url, columns, row)
        row += len(part)


def read_vectors(
    url: str, dim: int, others: Sequence[str], columns: Columns, batch_rows: int
) -> Iterator[tuple[Any, Array | Any, bool]]:
    """Yield record batches of some columns, and the vectors in the same rows: see `parquet.read_vectors`."""
    stored = [name for name in others if name != columns.labels or not columns.label_folders]
    if form(url) == ".parquet" and stored:
        row = 0
        for part, vectors, finite in parquet.read_vectors(url, columns.x, dim, stored, batch_rows):
            yield _with_labels(part, others, url, columns, row), vectors, finite
            row += len(part)
        return
    for part in read_batches(url, [*others, columns.x], columns, batch_rows):
        yield part, part[columns.x], False


def _stored(url: str, names: Sequence[str], columns: Columns, batch_rows: int) -> Iterator[Any]:
    """Yield the columns that are stored in files."""
    import pyarrow as pa

    others = [name for name in names if name != npy_parts.COLUMN]
    if not others or not _has_metadata(url, columns):
        yield from READERS[form(url)].read_batches(url, names, batch_rows)
        return
    check_metadata_rows(url, columns)
    row = 0
    for part in parquet.read_batches(metadata_of(url, columns), others, batch_rows):
        arrays = [
            npy_parts.read_rows(url, row, len(part)) if name == npy_parts.COLUMN else part[name] for name in names
        ]
        yield pa.record_batch(arrays, names=list(names))
        row += len(part)


def _empty(url: str, batch_rows: int) -> Iterator[Any]:
    """Yield record batches with the rows of a file and no columns."""
    import pyarrow as pa

    n = count_rows(url)
    for row in range(0, n, batch_rows):
        yield pa.RecordBatch.from_struct_array(pa.array([{}] * min(batch_rows, n - row), pa.struct([])))


def _with_labels(part: Any, names: Sequence[str], url: str, columns: Columns, row: int) -> Any:
    """Return a record batch from a row on, with labels from folder names, and with named labels as strings."""
    import pyarrow as pa

    if columns.labels not in names or not (columns.label_folders or columns.label_names):
        return part
    if columns.label_folders:
        labels = _folder_labels(url, str(columns.labels), columns.label_folders, len(part))
    else:
        labels = conversion.named_labels(part[columns.labels], columns.label_names, url, row)
    return pa.record_batch([labels if name == columns.labels else part[name] for name in names], names=list(names))


def folder_values(url: str) -> dict[str, str | None]:
    """Return the values by column of the folders column=value on the path of a file, as Hive writes them."""
    pairs = [name.split("=", 1) for name in url.split("/")[:-1] if "=" in name]
    return {column: None if value == NULL_FOLDER else unquote(value) for column, value in pairs if column}


def is_integer(value: str) -> bool:
    """Return whether the value of a folder is an integer, as pyarrow infers it."""
    return bool(re.fullmatch(r"-?[0-9]{1,18}", value))


def _folder_labels(url: str, column: str, kind: str, n: int) -> Any:
    import pyarrow as pa

    value = folder_values(url).get(column)
    if value is not None and kind == "int64" and not is_integer(value):
        raise ValueError(f"expected integers as {column}, as at ingest, found {value!r}, in {url}: ingest again")
    return pa.repeat(pa.scalar(None if value is None else int(value) if kind == "int64" else value, kind), n)


def _has_metadata(url: str, columns: Columns) -> bool:
    return bool(columns.metadata) and form(url) == ".npy"


def metadata_files(urls: Sequence[str], columns: Columns) -> dict[str, FileVersion]:
    """Return the current metadata file of each file of vectors; empty if the dataset has no metadata."""
    if not urls or not _has_metadata(urls[0], columns):
        return {}
    _by_number.cache_clear()
    found: dict[str, FileVersion] = {}
    of_number: dict[int | None, str] = {}
    for url in urls:
        found[url] = _metadata(url, columns)
        if (other := of_number.setdefault(npy_parts.file_number(url), url)) != url:
            raise ValueError(f"expected one file of vectors for {found[url].url}, found {other} and {url}")
    folder = _metadata_folder(urls[0], columns)
    if others := [file.url for file in _by_number(folder).values() if file not in found.values()]:
        raise ValueError(f"expected a file of vectors for each file in {folder}, found none for {others[0]}")
    return found


def metadata_of(url: str, columns: Columns) -> str:
    """Return the URL of the metadata file of a file of vectors. Raises ValueError if there is none."""
    return _metadata(url, columns).url


def check_metadata_rows(url: str, columns: Columns) -> None:
    """Raise ValueError if the metadata file of a file of vectors has another number of rows."""
    count, others = count_rows(url), count_rows(beside := metadata_of(url, columns))
    if others != count:
        raise ValueError(f"expected as many rows in {beside} as in {url}, found {others} and {count}")


def _metadata(url: str, columns: Columns) -> FileVersion:
    folder = _metadata_folder(url, columns)
    number = npy_parts.file_number(url)
    if number not in _by_number(folder):
        _by_number.cache_clear()  # the file may be new
    if number not in (known := _by_number(folder)):
        raise ValueError(f"expected a Parquet file with the number {number} in {folder}, found none for {url}")
    return known[number]


def _metadata_folder(url: str, columns: Columns) -> str:
    return f"{url.rsplit('/', 2)[0]}/{columns.metadata}"


@lru_cache(maxsize=16)
def _by_number(folder: str) -> dict[int | None, FileVersion]:
    return {npy_parts.file_number(file.url): file for file in filesystem.listing(folder, ".parquet")}
