"""Checks of the ids, keys and labels of a split at ingest. No other column is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from hashing.mapreduce import Array

from . import columns, keys, rows
from .footers import Footer
from .rows import Columns

CHECKED = 2**25  # rows of a split to check, with 8 bytes of memory for each; `reindex` checks all, in its tasks
READERS = 16  # files to read at a time


class _Rows(NamedTuple):
    """Consecutive rows of a file."""

    url: str
    first: int  # number of the first row
    ids: Any  # (n,) int64, or an Arrow array of plain keys
    labels: Any  # Arrow array; None without labels


def check_rows(footers: Mapping[str, Footer], names: Columns) -> None:
    """Raise ValueError, with file and row, for the first id, key or label that cannot be read, or is not distinct.

    Only the first CHECKED rows are read. `footers` are those of all files of a split, by URL.
    """
    left, wanted = CHECKED, dict[str, int]()
    for url, footer in footers.items():
        if n := min(footer.rows, left):
            wanted[url] = n
        left -= n
    if names.numbered and not _stored_labels(names):
        return
    stops = np.cumsum(list(wanted.values())).tolist()
    hashes = np.zeros(0 if names.numbered else stops[-1], np.int64)

    def check(url: str, start: int) -> None:
        for part in _read(url, wanted[url], names):
            if part.labels is not None:
                read = partial(columns.labels_by_row, multi_hot_width=names.multi_hot)
                _row_by_row(read, part.labels, url, part.first)
            if not names.numbered:
                hashes[start + part.first :][: len(part.ids)] = _hashes(part.ids)

    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(check, wanted, [0, *stops]))
    if (hashes[1:] > hashes[:-1]).all():  # most ids: then there is nothing to sort
        return
    hashes.sort()
    if len(repeated := np.unique(hashes[1:][hashes[1:] == hashes[:-1]])):
        without_labels = names.model_copy(update={"labels": None})
        parts = (part for url, n in wanted.items() for part in _read(url, n, without_labels))
        _refuse_repeated(parts, repeated, "keys" if names.keyed else "ids")


def _stored_labels(names: Columns) -> list[str]:
    return [names.labels] if names.labels and not names.label_folders else []


def _read(url: str, n: int, names: Columns) -> Iterator[_Rows]:
    """Yield the ids and labels of the first n rows of a file."""
    row, labels = 0, _stored_labels(names)
    for part in rows.read_batches(url, [*([] if names.numbered else [names.id]), *labels], names):
        part = part.slice(0, n - row)
        ids = None
        if names.keyed:
            keys.check_nulls(part[names.id], url, row)
            ids = _row_by_row(keys.plain_keys, part[names.id], url, row)
        elif not names.numbered:
            ids = columns.ids(part[names.id], url, row)
        yield _Rows(url, row, ids, part[labels[0]] if labels else None)
        row += len(part)
        if row == n:
            return


def _hashes(ids: Any) -> Array:
    """Return ids as they are, and hashes (n,) int64 of keys, for comparisons in this process."""
    import pyarrow as pa

    if isinstance(ids, np.ndarray):
        return ids
    contents = ids.cast(pa.binary()).to_numpy(zero_copy_only=False)
    return np.fromiter(map(hash, contents), np.int64, len(contents))


def _row_by_row(read: Callable[[Any, str], Any], column: Any, url: str, first: int) -> Any:
    """Return what a function reads from rows of a file. If it raises ValueError, the error names the row."""
    try:
        return read(column, url)
    except ValueError:
        for i in range(len(column)):
            read(column.slice(i, 1), f"row {first + i} of {url}")
        raise


def _refuse_repeated(parts: Iterator[_Rows], repeated: Array, what: str) -> None:
    """Raise ValueError for the first id or key that occurs twice, among those with repeated hashes."""
    seen: dict[Any, tuple[str, int]] = {}
    for part in parts:
        for i in np.flatnonzero(np.isin(_hashes(part.ids), repeated)).tolist():
            value = part.ids[i].item() if isinstance(part.ids, np.ndarray) else part.ids[i].as_py()
            url, row = seen.setdefault(value, (part.url, part.first + i))
            if (url, row) != (part.url, part.first + i):
                where = f"rows {row} and" if url == part.url else f"row {row} of {url} and in row"
                raise ValueError(f"expected distinct {what}, found {value!r} in {where} {part.first + i} of {part.url}")
