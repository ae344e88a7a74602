"""Rows named by strings: the map from key to id, an append-only list in which a key's place is its id."""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from ..files import filesystem


def assign(folder: str, keys: Iterable[str]) -> None:
    """Give each key that has no id yet the next one. Ids given once never change, whoever else assigns meanwhile."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = sorted(set(keys))
    while True:
        known, parts = _known(folder)
        have = set(known.to_pylist())
        if not (new := [key for key in wanted if key not in have]):
            return
        ids = np.arange(len(known), len(known) + len(new))
        file = io.BytesIO()
        pq.write_table(pa.table({"id": ids, "key": new}), file, compression="zstd")
        if filesystem.create_exclusive(_part(folder, parts), file.getvalue()):
            return


def ids_of(folder: str, column: Any, where: str) -> Array:
    """(n,) int64 ids of a column of keys. Raises ValueError for a key that has none, and where a key is null."""
    import pyarrow.compute as pc

    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"expected a key in every row, found null in row {row} of {where}")
    known, _ = _known(folder)
    ids = pc.index_in(column.cast(known.type), value_set=known)
    if ids.null_count:
        raise ValueError(f"expected keys with an id, found {column.filter(pc.is_null(ids))[0].as_py()!r}, in {where}")
    return np.asarray(ids.to_numpy(), np.int64)


def find(folder: str, wanted: Iterable[str], where: str) -> Array:
    """(n,) int64 ids of some keys. Raises ValueError for a key that has none."""
    import pyarrow as pa

    return ids_of(folder, pa.array(wanted, pa.string()), where)


def _known(folder: str) -> tuple[Any, int]:
    """All keys, in the order of their ids, and the number of parts that hold them."""
    import pyarrow as pa

    parts: list[Any] = []
    while filesystem.exists(_part(folder, len(parts))):  # by name, never by listing, which may lag behind
        parts.append(_read(_part(folder, len(parts))))
    return pa.concat_arrays(parts) if parts else pa.array([], pa.string()), len(parts)


@lru_cache(maxsize=1024)
def _read(url: str) -> Any:
    """The keys of a part, which never changes."""
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(filesystem.read_bytes(url)), columns=["key"])["key"].combine_chunks()


def _part(folder: str, number: int) -> str:
    return filesystem.join(folder, f"{number:05}.parquet")
