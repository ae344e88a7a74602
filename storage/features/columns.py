"""Conversion of Arrow columns of a shard to numpy, with a check of every value."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from hashing.mapreduce import Array

from . import media

NO_ID = -1  # fills up lists of neighbours that are too short (hashing.neighbours)

NUMBERS = {"halffloat", "float", "double", "uint8", "int8"}


def ids(column: Any, where: str, first_row: int = 0) -> Array:
    """Return the ids (n,) int64 in an integer column.

    Parameters
    ----------
    where
        The file, for messages.
    first_row
        The number of the first row in the file, for messages.

    Raises
    ------
    ValueError
        For a column of another type, for null, for an id beyond int64 and for -1, which stands for a missing neighbour.
    """
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        hint = "" if pa.types.is_floating(column.type) else "; --key-column reads strings as keys"
        raise ValueError(f"expected integer ids, found {column.type}, in {where}{hint}")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"expected an id in every row, found null in row {first_row + row} of {where}")
    values = column.to_numpy()
    if values.dtype == np.uint64 and len(too_large := np.flatnonzero(values > np.iinfo(np.int64).max)):
        row = int(too_large[0])
        raise ValueError(f"expected ids of int64, found {values[row]}, in row {first_row + row} of {where}")
    if len(reserved := np.flatnonzero(values == NO_ID)):
        row = first_row + int(reserved[0])
        raise ValueError(
            f"expected ids other than {NO_ID}, which stands for a missing neighbour, found it in row {row} of {where}"
        )
    return np.asarray(values, np.int64)


def vectors(column: Any, dim: int, where: str, first_row: int = 0) -> Array:
    """Return the vectors (n, dim) float32 in a list column. Raises ValueError for the first row without one."""
    x, errors = usable_rows(column, dim, where)
    if errors:
        refuse_row(errors, where, first_row)
    return x


def usable_rows(column: Any, dim: int, where: str, kind: str = "vector") -> tuple[Array, dict[int, str]]:
    """Return the readable rows of a column (m, dim) float32, and an error message for each other row, by its position.

    Parameters
    ----------
    column
        Arrow lists of numbers, encoded pictures, or texts; or vectors (n, dim) float32.
    where
        The file, for messages.
    kind
        "vector", "image" or "text".

    Raises
    ------
    ValueError
        If no row can be read: for a column of another kind, or of vectors of another fixed size.
    """
    if kind != "vector":
        if media.kind(column.type) != kind:
            raise ValueError(f"expected {kind}s, found {column.type}, in {where}")
        return media.usable_media(column, dim)
    errors: dict[int, str] = {}
    if isinstance(column, np.ndarray):
        x, rows, nulls = column, np.arange(len(column)), np.zeros(len(column), bool)
    else:
        x, rows, nulls = _lists(column, dim, where, errors)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(x.sum()):  # several times faster; not finite if one of them is not, or if the sum overflows
            return x, errors
    finite = np.isfinite(x).all(1)
    for i in np.flatnonzero(~finite):
        value = "null among them" if nulls[i] else "NaN or infinity"
        errors[int(rows[i])] = f"expected {dim} finite numbers, found {value}"
    return x if finite.all() else x[finite], errors


def _lists(column: Any, dim: int, where: str, errors: dict[int, str]) -> tuple[Array, Array, Array]:
    """Return the rows of Arrow lists that have the right length (m, dim) float32, where they are, and which have nulls.

    Adds an error for each of the others.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not hasattr(column.type, "value_type") or str(column.type.value_type) not in NUMBERS:
        raise ValueError(f"expected vectors, lists of {', '.join(sorted(NUMBERS))}, found {column.type}, in {where}")
    if pa.types.is_fixed_size_list(column.type) and column.type.list_size != dim:
        raise ValueError(f"expected vectors of dimension {dim}, found {column.type.list_size}, in every row of {where}")
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
    for row in np.flatnonzero(lengths != dim):
        null = lengths[row] < 0
        error = f"{dim} finite numbers, found null" if null else f"vectors of dimension {dim}, found {lengths[row]}"
        errors[int(row)] = f"expected {error}"
    rows = np.flatnonzero(lengths == dim)
    if errors:
        column = column.take(rows)
    values = column.flatten()
    nulls = values.is_null().to_numpy(zero_copy_only=False).reshape(len(rows), dim).any(1)
    with np.errstate(over="ignore", invalid="ignore"):  # a number beyond float32 becomes infinite: an error later
        x = values.to_numpy(zero_copy_only=False).reshape(len(rows), dim).astype(np.float32)
    return x, rows, nulls


def refuse_row(errors: dict[int, str], where: str, first_row: int) -> NoReturn:
    """Raise ValueError for the first of some unreadable rows."""
    row = min(errors)
    raise ValueError(f"{errors[row]}, in row {first_row + row} of {where}")


def label_indices(column: Any, vocabulary: tuple[str | int, ...], where: str) -> Any:
    """Return the positions of labels in the vocabulary, as Arrow list<int32>, of a list column of labels.

    Raises ValueError for a label that is not in the vocabulary.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.flatten()
    positions = pc.index_in(values, value_set=pa.array(vocabulary, values.type))
    if positions.null_count:
        label = values.filter(pc.is_null(positions))[0].as_py()
        raise ValueError(f"expected labels of the table's vocabulary, found {label!r}, in {where}")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return label_lists(np.concatenate([[0], np.cumsum(lengths)]), positions)


def label_lists(offsets: Array, positions: Any) -> Any:
    """Return lists of int32, not null: the type of the label column of a code table."""
    import pyarrow as pa

    list_type = pa.list_(pa.field("element", pa.int32(), nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), positions.cast(pa.int32()), type=list_type)


def multi_hot(labels: Any, n_classes: int) -> Array:
    """Return (n, n_classes) uint8 of lists of positions in the vocabulary."""
    y = np.zeros((len(labels), n_classes), np.uint8)
    lengths = labels.value_lengths().fill_null(0).to_numpy()
    y[np.repeat(np.arange(len(labels)), lengths), labels.flatten().to_numpy()] = 1
    return y


def distinct_labels(column: Any, where: str) -> set[str | int]:
    """Return the distinct labels in a list column. Raises ValueError for a column of another type."""
    if not hasattr(column.type, "value_type"):
        raise ValueError(f"expected lists of labels, found {column.type}, in {where}")
    return set(column.flatten().unique().to_pylist()) - {None}
