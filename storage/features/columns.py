"""What the columns of a shard hold: Arrow to numpy, each value checked as it is read."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from hashing.mapreduce import Array

from . import media

NO_ID = -1  # in lists of neighbours, where there are no more (hashing.neighbours)

NUMBERS = {"halffloat", "float", "double", "uint8", "int8"}


def ids(column: Any, where: str, first_row: int = 0) -> Array:
    """(n,) int64 of an integer column without nulls."""
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        raise ValueError(f"expected integer ids, found {column.type}, in {where}")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"expected an id in every row, found null in row {first_row + row} of {where}")
    found = column.to_numpy()
    if found.dtype == np.uint64 and len(beyond := np.flatnonzero(found > np.iinfo(np.int64).max)):
        row = int(beyond[0])
        raise ValueError(f"expected ids of int64, found {found[row]}, in row {first_row + row} of {where}")
    if len(none := np.flatnonzero(found == NO_ID)):
        where = f"row {first_row + int(none[0])} of {where}"
        raise ValueError(f"expected ids other than {NO_ID}, which fills up lists of neighbours, found it in {where}")
    return np.asarray(found, np.int64)


def vectors(column: Any, dim: int, where: str, first_row: int = 0) -> Array:
    """(n, dim) float32 of a list column, fixed-size or not, of numbers. Rows that are no vectors are refused."""
    x, faults = usable(column, dim, where)
    if faults:
        refuse(faults, where, first_row)
    return x


def usable(column: Any, dim: int, where: str, kind: str = "vector") -> tuple[Array, dict[int, str]]:
    """(m, dim) float32 of the rows that are vectors, pictures or texts, and what is wrong with each other row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind != "vector":
        if media.kind(column.type) != kind:
            raise ValueError(f"expected {kind}s, found {column.type}, in {where}")
        return media.usable(column, dim)
    if not hasattr(column.type, "value_type") or str(column.type.value_type) not in NUMBERS:
        raise ValueError(f"expected vectors, lists of {', '.join(sorted(NUMBERS))}, found {column.type}, in {where}")
    if pa.types.is_fixed_size_list(column.type) and column.type.list_size != dim:
        raise ValueError(f"expected vectors of dimension {dim}, found {column.type.list_size}, in every row of {where}")
    faults: dict[int, str] = {}
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
    for row in np.flatnonzero(lengths != dim):
        null = lengths[row] < 0
        found = f"{dim} finite numbers, found null" if null else f"vectors of dimension {dim}, found {lengths[row]}"
        faults[int(row)] = f"expected {found}"
    rows = np.flatnonzero(lengths == dim)
    if faults:
        column = column.take(rows)
    values = column.flatten()
    nulls = values.is_null().to_numpy(zero_copy_only=False).reshape(len(rows), dim).any(1)
    with np.errstate(over="ignore", invalid="ignore"):  # a number beyond float32 is infinite, and is told of below
        x = values.to_numpy(zero_copy_only=False).reshape(len(rows), dim).astype(np.float32)
    good = np.isfinite(x).all(1)
    for i in np.flatnonzero(~good):
        found = "null among them" if nulls[i] else "NaN or infinity"
        faults[int(rows[i])] = f"expected {dim} finite numbers, found {found}"
    return x if good.all() else x[good], faults


def refuse(faults: dict[int, str], where: str, first_row: int) -> NoReturn:
    """Say what is wrong with the first of some rows."""
    row = min(faults)
    raise ValueError(f"{faults[row]}, in row {first_row + row} of {where}")


def label_indices(column: Any, vocabulary: tuple[str | int, ...], where: str) -> Any:
    """A list column of labels -> the list<int32> column of their places in the vocabulary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = column.flatten()
    places = pc.index_in(values, value_set=pa.array(vocabulary, values.type))
    if places.null_count:
        label = values.filter(pc.is_null(places))[0].as_py()
        raise ValueError(f"expected labels of the table's vocabulary, found {label!r}, in {where}")
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return label_lists(np.concatenate([[0], np.cumsum(lengths)]), places)


def label_lists(offsets: Array, places: Any) -> Any:
    """list<int32 not null>, the form of labels in a code table."""
    import pyarrow as pa

    kind = pa.list_(pa.field("element", pa.int32(), nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), places.cast(pa.int32()), type=kind)


def multi_hot(labels: Any, n_classes: int) -> Array:
    """list<int32> (n) -> (n, n_classes) uint8."""
    y = np.zeros((len(labels), n_classes), np.uint8)
    lengths = labels.value_lengths().fill_null(0).to_numpy()
    y[np.repeat(np.arange(len(labels)), lengths), labels.flatten().to_numpy()] = 1
    return y


def distinct_labels(column: Any, where: str) -> set[str | int]:
    """The labels of a list column."""
    if not hasattr(column.type, "value_type"):
        raise ValueError(f"expected lists of labels, found {column.type}, in {where}")
    return set(column.flatten().unique().to_pylist()) - {None}
