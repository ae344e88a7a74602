"""Conversion of the Arrow columns of a shard to numpy. Every value is checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np

from hashing.mapreduce import Array

from . import media

LABEL_BYTES = 2**26  # multi-hot labels in memory
NO_ID = -1  # pads lists of neighbours (hashing.neighbours)
KEYS = "; ingest --key-column reads them as keys"
NOT_BITS = "expected a vector of 0 and 1, compared by hamming, found other numbers"
DROP = "; reindex and embed leave out such rows with --bad-rows drop"


def plain(column: Any) -> Any:
    """Return an Arrow column without dictionaries, views, and the extension types of tensors, UUIDs and bools."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from pyarrow import types

    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    views = (types.is_string_view, pa.string()), (types.is_binary_view, pa.binary()), (types.is_boolean, pa.uint8())
    for is_view, target in views:
        if is_view(column.type):
            return column.cast(target)
    if types.is_list_view(column.type) or types.is_large_list_view(column.type):
        # Not by cast, which loses rows at the end of the values in pyarrow 26.
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        ends = np.cumsum(lengths, dtype=np.int64)
        return pa.LargeListArray.from_arrays(np.concatenate([[0], ends]), column.flatten(), mask=column.is_null())
    return column


def is_list(column_type: Any) -> bool:
    """Return whether a column of this Arrow type holds lists."""
    from pyarrow import types

    kinds = types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view
    return any(is_kind(column_type) for is_kind in kinds)


def number_lists(column: Any, dtype: str | None, where: str, errors: dict[int, str] | None = None) -> Any:
    """Return a column of vectors as Arrow lists of numbers.

    A column of bytes holds vectors of `dtype`, little-endian. Rows of other sizes become null, with an error if
    `errors` are given. Raises ValueError for a column of another type.
    """
    import pyarrow as pa
    from pyarrow import types

    found = column.type
    column = plain(column)
    if dtype and media.kind(column.type) == "image":
        return bytes_as_lists(media.encoded(column), dtype, {} if errors is None else errors)
    if not is_list(column.type) or not is_number(column.type.value_type):
        raise ValueError(f"expected vectors, lists of numbers, found {found}, in {where}")
    if types.is_boolean(column.type.value_type):
        sizes = (column.type.list_size,) if types.is_fixed_size_list(column.type) else ()
        make = pa.large_list if types.is_large_list(column.type) else pa.list_
        column = column.cast(make(pa.uint8(), *sizes))
    return column


def is_number(value_type: Any) -> bool:
    """Return whether values of this Arrow type can be elements of a vector."""
    from pyarrow import types

    return any(is_kind(value_type) for is_kind in (types.is_floating, types.is_integer, types.is_boolean))


def bytes_as_lists(column: Any, dtype: str, errors: dict[int, str]) -> Any:
    """Return the rows of a binary column of little-endian numbers as Arrow lists. Null rows remain null.

    Rows of other than whole numbers become null, with an error.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    stored = np.dtype("uint16" if dtype == "bfloat16" else dtype).newbyteorder("<")
    lengths = pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False)
    whole = lengths % stored.itemsize == 0
    wrong = np.flatnonzero(~whole)
    errors |= {int(row): f"expected bytes of whole {dtype}, found {lengths[row]} bytes" for row in wrong}
    contents = [row if is_whole else None for row, is_whole in zip(column.to_pylist(), whole, strict=True)]
    values = np.frombuffer(b"".join(row or b"" for row in contents), stored).astype(stored.newbyteorder("="))
    if dtype == "bfloat16":  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    ends = np.cumsum(np.where(whole, lengths, 0) // stored.itemsize)
    mask = pa.array([row is None for row in contents], pa.bool_())
    return pa.LargeListArray.from_arrays(np.concatenate([[0], ends]), pa.array(values), mask=mask)


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
        For a column of another type, for null, for ids beyond int64 and for -1, which marks missing neighbours.

    Examples
    --------
    >>> import pyarrow as pa
    >>> ids(pa.array([7, 8], pa.uint16()), "mine.parquet")
    array([7, 8])
    """
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        hint = "" if pa.types.is_floating(column.type) else KEYS
        raise ValueError(f"expected integer ids, found {column.type}, in {where}{hint}")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"expected an id in every row, found null in row {first_row + row} of {where}")
    values = column.to_numpy()
    if values.dtype == np.uint64 and len(too_large := np.flatnonzero(values > np.iinfo(np.int64).max)):
        row = int(too_large[0])
        raise ValueError(f"expected ids of int64, found {values[row]}, in row {first_row + row} of {where}{KEYS}")
    if len(reserved := np.flatnonzero(values == NO_ID)):
        row = first_row + int(reserved[0])
        raise ValueError(
            f"expected ids other than {NO_ID}, which marks missing neighbours, found it in row {row} of {where}"
        )
    return np.asarray(values, np.int64)


def vectors(column: Any, dim: int, where: str, dtype: str | None = None) -> Array:
    """Return the vectors (n, dim) float32 in a column. Raises ValueError for the first row that cannot be read."""
    x, errors = usable_rows(column, dim, where, dtype=dtype)
    if errors:
        refuse_row(errors, where, 0)
    return x


def usable_rows(
    column: Any,
    dim: int,
    where: str,
    kind: str = "vector",
    dtype: str | None = None,
    metric: str = "euclidean",
    finite: bool = False,
) -> tuple[Array, dict[int, str]]:
    """Return the readable rows of a column (m, dim) float32, and error messages for the other rows, by their position.

    Parameters
    ----------
    column
        Arrow lists of numbers, encoded images, or texts; or vectors (n, dim) float32.
    where
        The file, for messages.
    kind
        "vector", "image" or "text".
    dtype
        The dtype of vectors in a column of bytes.
    metric
        For "cosine", a vector of zeros is an error; for "hamming", a vector of other numbers than 0 and 1.
    finite
        Whether all vectors are known to be finite.

    Raises
    ------
    ValueError
        If no row can be read, because the column holds another kind, or vectors of another fixed size.
    """
    if not isinstance(column, np.ndarray) and column.type == "null":  # such as fields that no row of a batch has
        what = f"{dim} finite numbers" if kind == "vector" else "a picture or a text"
        return np.zeros((0, dim), np.float32), dict.fromkeys(range(len(column)), f"expected {what}, found null")
    if kind != "vector":
        if media.kind(column.type) != kind:
            raise ValueError(f"expected {kind}s, found {column.type}, in {where}")
        return media.usable_media(column, dim)
    errors: dict[int, str] = {}
    if isinstance(column, np.ndarray):
        x, rows, nulls = column, np.arange(len(column)), np.zeros(len(column), bool)
    else:
        x, rows, nulls = _lists(number_lists(column, dtype, where, errors), dim, where, errors)
    if not finite:
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(x.sum()))  # fast; not finite if a value is not, or on overflow
    if finite and metric not in ("cosine", "hamming"):
        return x, errors
    usable = np.isfinite(x).all(1)
    for i in np.flatnonzero(~usable):
        value = "null among them" if nulls[i] else "NaN or infinity"
        errors[int(rows[i])] = f"expected {dim} finite numbers, found {value}"
    if metric == "cosine":
        zero = ~x.any(1)
        errors |= {int(rows[i]): "expected a vector other than zero, which has no cosine" for i in np.flatnonzero(zero)}
        usable &= ~zero
    if metric == "hamming":
        others = usable & ~((x == 0) | (x == 1)).all(1)
        errors |= {int(rows[i]): NOT_BITS for i in np.flatnonzero(others)}
        usable &= ~others
    return x if usable.all() else x[usable], errors


def _lists(column: Any, dim: int, where: str, errors: dict[int, str]) -> tuple[Array, Array, Array]:
    """Return the lists of the right length (m, dim) float32, their positions, and whether they have nulls.

    Adds an error for each other row.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_fixed_size_list(column.type) and column.type.list_size != dim:
        raise ValueError(f"expected vectors of dimension {dim}, found {column.type.list_size}, in every row of {where}")
    lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy()
    for row in np.flatnonzero(lengths != dim):
        null = lengths[row] < 0
        error = f"{dim} finite numbers, found null" if null else f"vectors of dimension {dim}, found {lengths[row]}"
        errors.setdefault(int(row), f"expected {error}")
    rows = np.flatnonzero(lengths == dim)
    if errors:
        column = column.take(rows)
    values = column.flatten()
    nulls = values.is_null().to_numpy(zero_copy_only=False).reshape(len(rows), dim).any(1)
    with np.errstate(over="ignore", invalid="ignore"):  # a number beyond float32 becomes infinite: an error later
        x = values.to_numpy(zero_copy_only=False).reshape(len(rows), dim).astype(np.float32)
    return x, rows, nulls


def refuse_row(errors: dict[int, str], where: str, first_row: int, remedy: str = "") -> NoReturn:
    """Raise ValueError for the first of some unreadable rows."""
    row = min(errors)
    raise ValueError(f"{errors[row]}, in row {first_row + row} of {where}{remedy}")


def label_indices(column: Any, vocabulary: tuple[str | int, ...], where: str, multi_hot_width: int = 0) -> Any:
    """Return a column of labels as positions in the vocabulary, as Arrow list<int32>.

    Raises ValueError for a label that is not in the vocabulary.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    offsets, values = labels_by_row(column, where, multi_hot_width)
    alike = [i for i, label in enumerate(vocabulary) if isinstance(label, str) == (values.type == pa.string())]
    found = pc.index_in(values, value_set=pa.array([vocabulary[i] for i in alike], values.type))
    if found.null_count:
        label = values.filter(pc.is_null(found))[0].as_py()
        raise ValueError(f"expected labels of the table's vocabulary, found {label!r}, in {where}")
    return label_lists(offsets, pa.array(alike, pa.int32()).take(found))


def labels_by_row(column: Any, where: str, multi_hot_width: int = 0) -> tuple[Array, Any]:
    """Return offsets (n + 1,) and all labels, int64 or string: row i has those from offsets[i] to offsets[i + 1].

    Parameters
    ----------
    column
        Arrow labels, one per row or in lists: integers, strings, bools (as 0 and 1), or dictionaries of these.
    multi_hot_width
        If not 0, rows are lists of this length of 0 and 1, and the labels are the positions of the ones.

    Raises
    ------
    ValueError
        For a column of another type, and for a multi-hot row of another length or with other values.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    check_label_type(column.type, where)
    column = plain(column)
    if not is_list(column.type):
        present = column.is_valid().to_numpy(zero_copy_only=False)
        return np.concatenate([[0], present.cumsum()]), label_values(column.drop_null(), where)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    values = plain(column.drop_null().flatten())
    if not multi_hot_width:
        if values.null_count:
            raise ValueError(f"expected labels, found null in a list, in {where}")
        return np.concatenate([[0], np.cumsum(lengths)]), label_values(values, where)
    if len(wrong := np.flatnonzero((lengths != multi_hot_width) & (lengths > 0))):
        raise ValueError(f"expected multi-hot labels of width {multi_hot_width}, found {lengths[wrong[0]]}, in {where}")
    hot = values.to_numpy(zero_copy_only=False).reshape(-1, multi_hot_width)
    if len(wrong := np.flatnonzero(((hot != 0) & (hot != 1)).any(axis=1))):
        raise ValueError(f"expected multi-hot labels of 0 and 1, found {hot[wrong[0]].tolist()}, in {where}")
    rows, positions = np.nonzero(hot)
    counts = np.bincount(np.flatnonzero(lengths)[rows], minlength=len(column))
    return np.concatenate([[0], counts.cumsum()]), pa.array(positions)


def label_values(values: Any, where: str) -> Any:
    """Return labels as Arrow int64 or strings, so that labels of different files are comparable."""
    import pyarrow as pa
    from pyarrow import types

    if types.is_floating(values.type):
        raise ValueError(f"expected labels of integers, strings or bools, found {values.type}, in {where}")
    try:
        labels = values.cast(pa.int64() if types.is_integer(values.type) or types.is_null(values.type) else pa.string())
    except pa.ArrowInvalid as error:
        raise ValueError(f"expected labels of int64, found {error}, in {where}") from None
    if not media.is_utf8(labels):
        raise ValueError(f"expected labels in UTF-8, found other bytes, in {where}")
    return labels


def check_label_type(column_type: Any, where: str) -> None:
    """Raise ValueError unless a column of this Arrow type can hold labels, or multi-hot labels."""
    import pyarrow as pa
    from pyarrow import types

    if isinstance(column_type, pa.BaseExtensionType):
        column_type = column_type.storage_type
    inner = column_type.value_type if is_list(column_type) else column_type
    value_type = inner.value_type if types.is_dictionary(inner) else inner
    if types.is_integer(value_type) or types.is_boolean(value_type) or media.is_text(value_type) or inner == pa.null():
        return
    if is_list(column_type) and types.is_floating(inner):
        return  # floats only as multi-hot labels: checked at ingest
    raise ValueError(
        f"expected labels of integers, strings or bools, or lists of these, found {column_type}, in {where}"
    )


def label_lists(offsets: Array, positions: Any) -> Any:
    """Return lists of non-null int32, the type of the label column of a code table."""
    import pyarrow as pa

    list_type = pa.list_(pa.field("element", pa.int32(), nullable=False))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), positions.cast(pa.int32()), type=list_type)


def multi_hot_labels(labels: Any, classes: Sequence[int]) -> Array:
    """Return lists of positions in the vocabulary as multi-hot labels (n, c) uint8.

    `classes` (c,) are the positions that the columns stand for, in ascending order; others are left out.
    """
    y, wanted = np.zeros((len(labels), len(classes)), np.uint8), np.asarray(classes, np.int32)
    lengths = labels.value_lengths().fill_null(0).to_numpy()
    rows, found = np.repeat(np.arange(len(labels)), lengths), labels.flatten().to_numpy()
    places = np.searchsorted(wanted, found)
    hit = places < len(wanted)
    hit[hit] = wanted[places[hit]] == found[hit]
    y[rows[hit], places[hit]] = 1
    return y


def labelled_rows(n_classes: int) -> int:
    """Return the number of rows whose multi-hot labels take LABEL_BYTES."""
    return max(1, LABEL_BYTES // max(1, n_classes))


def distinct_labels(column: Any, where: str, multi_hot_width: int = 0) -> set[str | int]:
    """Return the distinct labels in a column. Raises ValueError for a column of another type."""
    return set(labels_by_row(column, where, multi_hot_width)[1].unique().to_pylist())


def named_labels(column: Any, names: tuple[str, ...], where: str, first_row: int) -> Any:
    """Return integer labels, one a row or in lists, as their names; -1, which stands for no label, as null.

    Raises ValueError for a label without a name. `first_row` is the number of the column's first row, for messages.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = plain(column)
    values = column.flatten() if is_list(column.type) else column
    ends = np.arange(1, len(values) + 1)
    if is_list(column.type):
        ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False))
    unnamed = pc.fill_null(pc.or_(pc.less(values, -1), pc.greater_equal(values, len(names))), False)
    if len(wrong := np.flatnonzero(unnamed.to_numpy(zero_copy_only=False))):
        place, row = int(wrong[0]), first_row + int(np.searchsorted(ends, wrong[0], "right"))
        known = f"labels from 0 to {len(names) - 1}, which have names"
        raise ValueError(f"expected {known}, found {values[place]}, in row {row} of {where}")
    named = pc.take(pa.array(names, pa.string()), pc.if_else(pc.equal(values, -1), None, values))
    if not is_list(column.type):
        return named
    return pa.LargeListArray.from_arrays(np.concatenate([[0], ends]), named, mask=column.is_null())
