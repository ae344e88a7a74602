"""Checks of a source at ingest: what it holds, from schemas, ids, labels, and first rows of all splits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np

from hashing.names import near

from ..files import parquet, samples
from ..files.filesystem import FileVersion
from ..formats import Kind
from . import all_rows, ambiguous, columns, footers, keys, media, rows
from .rows import Columns
from .summary import PICTURES, OpenSplit, SplitSummary, summarize

FIRST_ROWS = 4096  # rows of each split to read
FEW_ROWS = 256  # of each further file
FOOTERS = 16  # footers to read at a time
NUMBERED = (".arrow", ".feather", ".npy")  # formats whose rows are numbered if they have no ids
VECTORS, IDS = ("vector", "image", "text"), "id"  # default names of columns


class SourceRefused(ValueError):
    """The source cannot be read with the given options. Nothing was written."""


@contextmanager
def refusing() -> Iterator[None]:
    """Raise ValueError and FileNotFoundError of the block as SourceRefused."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceRefused(f"no such file: {error.filename}" if error.filename else str(error)) from None
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise SourceRefused(f"expected strings in UTF-8, found {error.object[:40]!r}") from None
    except ValueError as error:
        raise SourceRefused(str(error)) from None


class Contract(NamedTuple):
    """Kind, dimension, columns and splits of a dataset, as found in its files."""

    kind: Kind
    dim: int  # of the vectors, or of the numbers that represent a picture or a text
    columns: Columns
    splits: dict[str, SplitSummary]


@refusing()
def understand(splits: Mapping[str, str], given: Columns, labels_as: str | None, metric: str) -> Contract:
    """Return what the files of a dataset hold. They are used in place.

    Parameters
    ----------
    splits
        URL of the file or folder of each split; "base" is required.
    given
        The columns that the user named. An empty x stands for the first of VECTORS in the schema.
    labels_as
        "values" or "multi-hot"; if None, lists that can be read either way are refused.
    metric
        How vectors are compared; "hamming" requires vectors of 0 and 1.

    Raises
    ------
    SourceRefused
        If a file lacks a column, or differs in type from the first file of its split with rows; if a split differs from
        the base split in kind or dimension, or in the type of the labels; if the first rows cannot be read; if they
        can be read in two ways and no option decides; or if an id or label cannot be read, or an id occurs twice.
    FileNotFoundError
        If a split has no files.
    """
    files = {split: rows.data_files(url) for split, url in splits.items()}
    names = _complete(given, files)
    if labels_as and not names.labels:
        raise ValueError("--labels-as applies to labels: name their column by --label-column")
    found = {split: _open_split(splits[split], files[split], names) for split in splits}
    base = found["base"]
    names = names.model_copy(update={"multi_hot": _multi_hot_width(found, names, labels_as)})
    kind, dim = _kind_and_dim(base, names)
    if kind == "text":
        named = "" if given.x else names.x
        ambiguous.refuse_other_strings(base.first[names.x], f"column {names.x} of {base.url}", named)
    for split in found.values():
        _check_dims(split, names, kind, dim)
        if names.labels and not names.label_folders:
            _check_column(split.schema, base.schema, names.labels, split.url, base.url, names)
            _check_label_names(split, names, files["base"][0].url)
        all_rows.check_rows(split.footers, names)
        _check_first_rows(split, names, kind, dim, metric)
        if not names.numbered:
            footers.check_ids(split.footers, names)
    if names.labels and not any(_has_label(found[split], files[split], names) for split in splits):
        raise ValueError(f"expected labels in {names.labels}, found only null, in {base.url}: leave out --label-column")
    summaries = {split: summarize(found[split], names, kind, dim) for split in splits}
    return Contract(kind, dim, names, summaries)


def _complete(given: Columns, files: Mapping[str, list[FileVersion]]) -> Columns:
    """Return the given columns, completed from the format of the files."""
    first = files["base"][0].url
    schema = rows.schema(first, given)
    _check_folders(given, schema, first)
    names = given.model_copy(update={"x": given.x or _default_x(first, schema)})
    if names.id == IDS and not names.keyed and IDS not in schema.names:
        if rows.form(first) == ".tar":
            names = names.model_copy(update={"id": samples.KEY, "keyed": True})
        names = names.model_copy(update={"numbered": rows.form(first) in NUMBERED})
    chosen = [names.x, names.labels, *([] if names.numbered else [names.id])]
    if twice := next((name for name in chosen if chosen.count(name) > 1), None):
        raise ValueError(f"expected different columns for ids, vectors and labels, found {twice} twice")
    if not names.labels:
        return names
    label_folders = _label_folders(names.labels, [file.url for listed in files.values() for file in listed])
    if label_folders and names.labels in schema.names:
        raise ValueError(
            f"the labels {names.labels} are a column of {first} and in the names of its folders: rename one"
        )
    label_names = () if label_folders else _label_names(schema, names.labels)
    return names.model_copy(update={"label_folders": label_folders, "label_names": label_names})


def _check_folders(given: Columns, schema: Any, url: str) -> None:
    """Raise ValueError if a folder column=value has the name of the column of ids or vectors."""
    for name in (given.id, given.x or VECTORS[0]):
        if name in rows.folder_values(url):
            where = "both a column and" if parquet.field_of(schema, name) else "only"
            raise ValueError(
                f"{name} is {where} in the names of the folders of {url}, which can only be labels: "
                f"{_option(name, given)}"
            )


def _label_folders(column: str, urls: Sequence[str]) -> Literal["int64", "string"] | None:
    """Return the type of the labels in folder names; None if there are no labels.

    int64 if all are integers, unless two names, such as 1 and 01, are the same one.
    """
    found = [rows.folder_values(url) for url in urls]
    if not any(column in values for values in found):
        return None
    if missing := next((url for url, values in zip(urls, found, strict=True) if column not in values), None):
        raise ValueError(f"expected a folder {column}=value on the path of every file, found none for {missing}")
    present = [value for values in found if (value := values[column]) is not None]
    are_integers = bool(present) and all(map(rows.is_integer, present))
    return "int64" if are_integers and len(set(map(int, present))) == len(set(present)) else "string"


def _label_names(schema: Any, column: str) -> tuple[str, ...]:
    """Return the names of the integer labels of a Hugging Face dataset; empty if they have none."""
    stored = (schema.metadata or {}).get(b"huggingface", b"{}")
    feature = json.loads(stored).get("info", {}).get("features", {}).get(column, {})
    feature = feature[0] if isinstance(feature, list) and feature else feature  # a sequence, in old versions
    feature = feature.get("feature", feature) if isinstance(feature, dict) else {}
    return tuple(feature.get("names") or ()) if feature.get("_type") == "ClassLabel" else ()


def _check_label_names(split: OpenSplit, names: Columns, first_url: str) -> None:
    """Raise ValueError if a file states other names of labels than the first file."""
    for url, footer in split.footers.items():
        found = _label_names(footer.schema, str(names.labels))
        if found and names.label_names and found != names.label_names:
            expected, others = (", ".join(every) for every in (names.label_names, found))
            raise ValueError(f"expected the labels {expected} as in {first_url}, found {others}, in {url}")


def _open_split(url: str, files: list[FileVersion], names: Columns) -> OpenSplit:
    """Read the footers of all files and the first rows of the first file that has any; check the columns."""
    rows.metadata_files([file.url for file in files], names)
    with ThreadPoolExecutor(FOOTERS) as pool:
        read = list(pool.map(lambda file: footers.read_footer(file.url, names), files))
    found = {file.url: footer for file, footer in zip(files, read, strict=True)}
    first = next((file for file, footer in found.items() if footer.rows), None)
    if first is None:
        raise ValueError(f"expected at least one row, found none in {url}")
    schema = found[first].schema
    wanted = [names.x] if names.numbered else [names.id, names.x]
    wanted += [names.labels] if names.labels and not names.label_folders else []
    for file, footer in found.items():
        for name in wanted:
            if not footer.rows and parquet.field_of(footer.schema, name):
                continue  # writers cannot infer types without rows
            _check_column(footer.schema, schema, name, file, first, names)
    columns_read = [*wanted, names.labels] if names.labels and names.label_folders else wanted
    return OpenSplit(first, schema, _first_rows(first, columns_read, names), found, sum(file.size for file in files))


def _first_rows(url: str, wanted: Sequence[str], names: Columns, n: int = FIRST_ROWS) -> Any:
    return next(part for part in rows.read_batches(url, wanted, names, n) if len(part))


def _check_dims(split: OpenSplit, names: Columns, kind: Kind, dim: int) -> None:
    """Raise ValueError if the first rows of a file have no vector of dimension dim, but others.

    Only those files are read whose footer does not rule it out.
    """
    import pyarrow.compute as pc

    def check(url: str) -> None:
        if (first := _first_rows(url, [names.x], names, FEW_ROWS)[names.x]).type != "null":
            errors: dict[int, str] = {}
            lists = columns.number_lists(first, names.dtype, url, errors)
            if len(errors) == len(first):
                columns.refuse_row(errors, url, 0)
            lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
            if lengths.any() and dim not in lengths:
                row = int(np.flatnonzero(lengths)[0])
                columns.refuse_row({row: f"expected vectors of dimension {dim}, found {lengths[row]}"}, url, 0)

    if kind == "vector":
        with ThreadPoolExecutor(FOOTERS) as pool:
            unsure = (
                url for url, footer in split.footers.items() if footer.rows and footer.numbers != footer.rows * dim
            )
            list(pool.map(check, unsure))


def _check_column(schema: Any, first: Any, name: str, url: str, first_url: str, names: Columns) -> None:
    """Raise ValueError if a file lacks a column, or has it as another kind than the first file with rows."""
    if schema.names.count(name) > 1:
        raise ValueError(f"expected one column {name}, found {schema.names.count(name)}, in {url}")
    field, expected = parquet.field_of(schema, name), parquet.field_of(first, name)
    if field is None or expected is None:
        where, found = (url, schema.names) if field is None else (first_url, first.names)
        remedy = _option(name, names)
        if rows.form(where) == ".npy":
            remedy = f"a .npy file holds vectors only, so store them with their {name}, such as in Parquet"
        meant = " ".join(filter(None, (near(name, found), remedy)))
        raise ValueError(f"expected a column {name}, found {', '.join(found)}, in {where}: {meant}")
    if name != names.id and "null" in (field.type, expected.type):  # such as a field that the first sample lacks
        return
    are_labels = name == names.labels
    if are_labels:
        columns.check_label_type(field.type, f"column {name} of {url}")
        if any(columns.is_list(kind) and kind.value_type == "null" for kind in (field.type, expected.type)):
            return  # no row of one file has a label
    sizes = {_fixed_size(field.type), _fixed_size(expected.type)} - {None}
    if 0 in sizes:
        raise ValueError(f"column {name}: expected lists of values, found {field.type}, in {url}")
    if _shape(field.type, are_labels) != _shape(expected.type, are_labels) or len(sizes) > 1:
        raise ValueError(f"column {name}: expected {expected.type} as in {first_url}, found {field.type}, in {url}")


def _option(name: str, names: Columns) -> str:
    if name == names.id:
        return "name yours by --id-column or --key-column"
    return f"name yours by {'--label-column' if name == names.labels else '--vector-column'}"


def _shape(column_type: Any, are_labels: bool) -> tuple[Any, ...]:
    """Return the properties of a column type that must be the same in all files."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(column_type, pa.BaseExtensionType):
        column_type = column_type.storage_type
    if types.is_dictionary(column_type):
        column_type = column_type.value_type
    if columns.is_list(column_type):
        value_type = column_type.value_type
        return ("list", columns.is_number(value_type), are_labels and types.is_floating(value_type))
    return (media.kind(column_type) or types.is_integer(column_type) or str(column_type),)


def _fixed_size(column_type: Any) -> int | None:
    """Return the length of the lists of a fixed-size type; None for other types."""
    import pyarrow as pa

    if isinstance(column_type, pa.BaseExtensionType):
        column_type = column_type.storage_type
    return column_type.list_size if pa.types.is_fixed_size_list(column_type) else None


def _default_x(first: str, schema: Any) -> str:
    """Return the first of VECTORS in the schema of the first file. Raises ValueError if there is none."""
    found = schema.names
    for name in VECTORS:
        if name in found:
            return name
    expected = f"{', '.join(VECTORS[:-1])} or {VECTORS[-1]}"
    raise ValueError(
        f"expected a column {expected}, found {', '.join(found)}, in {first}: name yours by --vector-column"
    )


def _kind_and_dim(base: OpenSplit, names: Columns) -> tuple[Kind, int]:
    """Return the kind of rows and their dimension, which is the most common one of the first rows."""
    import pyarrow.compute as pc

    column = base.first[names.x]
    kind = media.kind(column.type)
    if names.dtype and kind != "image":
        raise ValueError(f"--vector-dtype is for bytes, found {column.type} in column {names.x} of {base.url}")
    if kind and not names.dtype:
        return kind, media.dim(kind)
    if names.dtype:
        ambiguous.refuse_other_bytes(media.encoded(columns.plain(column)), f"column {names.x} of {base.url}")
    errors: dict[int, str] = {}
    lists = columns.number_lists(column, names.dtype, f"column {names.x} of {base.url}", errors)
    lengths = pc.list_value_length(lists)
    if not (common := pc.mode(lengths.filter(pc.greater(lengths, 0)))):
        if errors:
            columns.refuse_row(errors, base.url, 0)
        raise ValueError(f"expected vectors, found only null or empty ones in column {names.x} of {base.url}")
    return "vector", common[0]["mode"].as_py()


def _multi_hot_width(found: Mapping[str, OpenSplit], names: Columns, labels_as: str | None) -> int:
    """Return the width of multi-hot labels, 0 for labels that are values, from the first rows of all files.

    Raises ValueError if both are possible, if files differ, and for labels that cannot be read.
    """
    if not (column := names.labels):
        return 0
    decided = labels_as or ("values" if names.label_names else None)

    def width_in(url: str, first: Any) -> int | None:
        if first is None:
            first = _first_rows(url, [column], names, FEW_ROWS)
        where = f"column {column} of {url}"
        return ambiguous.multi_hot_width(first[column], where, decided)

    first_rows = {split.url: split.first for split in found.values()}
    for split in found.values():
        later = [] if names.label_folders else [url for url, footer in split.footers.items() if footer.rows]
        first_rows |= {url: None for url in later if url not in first_rows}
    with ThreadPoolExecutor(FOOTERS) as pool:
        widths = dict(zip(first_rows, pool.map(width_in, first_rows, first_rows.values()), strict=True))
    known = {url: width for url, width in widths.items() if width is not None}
    if labels_as == "multi-hot" and not known:
        raise ValueError(f"expected multi-hot labels in the first rows of a file, found none in column {column}")
    if other := next((url for url, width in known.items() if width != next(iter(known.values()))), None):
        url, width = next(iter(known.items()))
        raise ValueError(f"expected multi-hot labels of width {width} as in {url}, found {known[other]}, in {other}")
    return next(iter(known.values()), 0)


def _check_first_rows(split: OpenSplit, names: Columns, kind: Kind, dim: int, metric: str) -> None:
    """Raise ValueError if the first rows of a split cannot be read like those of the base split."""
    where, first = split.url, split.first
    few = first[names.x][:PICTURES] if kind == "image" else first[names.x]
    _, errors = columns.usable_rows(few, dim, where, kind, names.dtype, metric)
    if not_bits := [row for row, error in errors.items() if error == columns.NOT_BITS]:
        columns.refuse_row({not_bits[0]: columns.NOT_BITS}, where, 0)
    if len(errors) == len(few):  # a run can drop some bad rows, but not all
        row = min(errors)
        hint = _hint(first[names.x], errors[row])
        key = f", for key {keys.plain_keys(first[names.id], where)[row].as_py()!r}" if names.keyed else ""
        raise ValueError(f"column {names.x}: {errors[row]}, in row {row} of {where}{key}{hint}")


def _hint(column: Any, error: str) -> str:
    from pyarrow import types

    if media.NO_FORMAT in error:
        return "; vectors stored as bytes need --vector-dtype"
    if types.is_struct(column.type) and column.type.get_field_index("path") >= 0:
        return "; paths of pictures are not followed: store their bytes"
    return ""


def _has_label(split: OpenSplit, files: list[FileVersion], names: Columns) -> bool:
    """Return whether any row has a label. Reads labels up to the first one, usually in the first rows."""
    label = str(names.labels)
    later = (part for file in files for part in rows.read_batches(file.url, [label], names))
    parts = chain([split.first], later)
    return any(len(columns.labels_by_row(part[label], split.url, names.multi_hot)[1]) for part in parts)
