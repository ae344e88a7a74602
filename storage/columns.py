"""What the columns of a shard hold: Arrow to numpy, each value checked as it is read."""

from __future__ import annotations

from typing import Any

import numpy as np

from hashing.mapreduce import Array

NUMBERS = {"halffloat", "float", "double", "uint8", "int8"}


def ids(column: Any, where: str) -> Array:
    """(n,) int64 of an integer column without nulls."""
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        raise ValueError(f"expected integer ids, found {column.type}, in {where}")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"expected an id in every row, found null in row {row} of {where}")
    return np.asarray(column.cast(pa.int64()).to_numpy())


def vectors(column: Any, dim: int, where: str, first_row: int = 0) -> Array:
    """(n, dim) float32 of a list column, fixed-size or not, of numbers. NaN and infinity are refused."""
    import pyarrow as pa

    if not hasattr(column.type, "value_type") or str(column.type.value_type) not in NUMBERS:
        raise ValueError(f"expected vectors, lists of {', '.join(sorted(NUMBERS))}, found {column.type}, in {where}")
    if column.null_count or column.flatten().null_count:
        raise ValueError(f"expected {dim} numbers in every row, found null, in {where}")
    if pa.types.is_fixed_size_list(column.type):
        found = column.type.list_size
    else:
        lengths = np.diff(column.offsets.to_numpy())
        wrong = np.flatnonzero(lengths != dim)
        found = int(lengths[wrong[0]]) if len(wrong) else dim
        first_row += int(wrong[0]) if len(wrong) else 0
    if found != dim:
        raise ValueError(f"expected vectors of dimension {dim}, found {found}, in row {first_row} of {where}")
    x = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), dim)
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(1))[0])
        raise ValueError(f"expected finite numbers, found NaN or infinity, in row {first_row + row} of {where}")
    numbers: Array = x.astype(np.float32)
    return numbers


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


def distinct_labels(column: Any) -> set[str | int]:
    """The labels of a list column."""
    return set(column.flatten().unique().to_pylist()) - {None}
