"""Keys: the map from key to id, an append-only list of keys in which the position of a key is its id.

The list is stored in parts 00000.parquet, 00001.parquet, …. To keep lookups fast with many parts, MERGED consecutive
parts share an index file, MERGED of these share a larger one, and so on: `index/00000-00255.u64` holds rows (hash,
hash, id), sorted by the first hash, and is mapped into memory. Index files are derived from the parts: a reader that
needs a missing one creates it.

The way back, from id to key, needs no index: a binary search over the first ids of the parts, which their footers hold,
finds the row groups to read.
"""

import hashlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from threading import Lock
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from ..files import filesystem, parquet
from ..warehouse import KEY_INDEX, KEY_PART
from . import media

MERGED = 16  # parts, or index files, that share an index file
SORTED = 2**20  # rows of an index file to sort at a time, on average: 24 MB
HASHED = 2**16  # keys to hold as Python objects at a time
GROUP = 2**16  # keys of a row group: what is read to find one key
READERS = 8  # row groups to read at a time
HELD = 2**27  # bytes of row groups to keep in memory
NONE = -1  # in place of the id of a key that has none

_seen: dict[str, int] = {}  # folder -> number of parts seen by this process


class _RecentGroups:
    """The keys of row groups that were used last, in at most HELD bytes. Shared by threads."""

    def __init__(self) -> None:
        self._groups: OrderedDict[tuple[str, int], Any] = OrderedDict()
        self._bytes, self._lock = 0, Lock()

    def find(self, group: tuple[str, int]) -> Any | None:
        with self._lock:
            if group in self._groups:
                self._groups.move_to_end(group)
            return self._groups.get(group)

    def keep(self, group: tuple[str, int], keys: Any) -> None:
        with self._lock:
            if group not in self._groups:
                self._groups[group] = keys
                self._bytes += _size(keys)
            while self._bytes > HELD:
                self._bytes -= _size(self._groups.popitem(last=False)[1])

    def clear(self) -> None:
        with self._lock:
            self._groups.clear()
            self._bytes = 0


_recent = _RecentGroups()


def assign_ids(folder: str, keys: Any) -> None:
    """Give each key in an Arrow array that has no id the next free one.

    Ids never change. Safe to call from several processes: the one that loses a race tries again.
    """
    import pyarrow as pa

    wanted = plain_keys(keys, folder).unique().sort()
    hashes = _hashes(wanted)
    while True:
        parts = _count(folder)
        if not len(new := wanted.filter(pa.array(_search(folder, parts, hashes) == NONE))):
            return
        known = sum(len(_index(folder, first, size)) for first, size in _blocks(parts))
        table = pa.table({"id": np.arange(known, known + len(new)), "key": new})
        if filesystem.create_exclusive(_part(folder, parts), parquet.to_bytes(table, row_group_size=GROUP)):
            _seen[folder] = parts + 1
            return


def column_ids(folder: str, column: Any, where: str, first_row: int = 0, allow_unknown: bool = False) -> Array:
    """Return the ids (n,) int64 of an Arrow column of keys.

    Raises ValueError, with `where`, for a null and for a key without an id. If unknown keys are allowed, their id is
    NONE. `first_row` is the number of the column's first row, for messages.
    """
    check_nulls(column, where, first_row)
    ids = _search(folder, _count(folder), _hashes(plain_keys(column, where)))
    if not allow_unknown and len(unknown := np.flatnonzero(ids == NONE)):
        raise ValueError(f"unknown key {column[int(unknown[0])].as_py()!r}, in {where}")
    return ids


def check_nulls(column: Any, where: str, first_row: int) -> None:
    """Raise ValueError for the first null in a column of keys. `first_row` is as in `column_ids`."""
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise ValueError(f"expected a key in every row, found null in row {first_row + row} of {where}")


def find_ids(folder: str, keys: Iterable[str | bytes], where: str) -> Array:
    """Return the ids (n,) int64 of keys. Raises ValueError, with `where`, for a key without an id."""
    import pyarrow as pa

    given = list(keys)
    kind = pa.binary() if any(isinstance(key, bytes) for key in given) else pa.string()
    return column_ids(folder, pa.array(given, kind), where)


def keys_of(folder: str, ids: Array) -> Any:
    """Return the keys of ids (n,) int64 as an Arrow chunked array of strings; of bytes if a part holds bytes.

    Reads the row groups that hold them. Raises ValueError for an id that no key has.
    """
    import pyarrow as pa

    wanted, places = np.unique(ids, return_inverse=True)
    parts = _count(folder)
    n = int(_group_ids(_part(folder, parts - 1))[-1]) if parts else 0
    if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < n:
        missing = wanted[0] if wanted[0] < 0 else wanted[-1]
        raise ValueError(f"expected ids of the {n:,} keys in {folder}, found {missing}")
    with ThreadPoolExecutor(READERS) as pool:
        tasks = _groups_with(folder, wanted, parts, pool)
        pieces = pool.map(lambda task: _group_keys(*task[:2]).take(pa.array(task[2])), tasks)
        return joined(pieces).take(pa.array(places))


def joined(arrays: Iterable[Any]) -> Any:
    """Return keys in Arrow arrays as one chunked array: of bytes if one of them holds bytes, else of strings."""
    import pyarrow as pa

    pieces = list(arrays)
    kind = pa.binary() if any(piece.type == pa.binary() for piece in pieces) else pa.string()
    return pa.chunked_array([piece.cast(kind) for piece in pieces], kind)


def names_of(folder: str, ids: Iterable[int]) -> list[str]:
    """Return some ids in the words of messages: by their keys, or as they are where there is no folder of keys."""
    ids = np.array(list(ids), np.int64)
    return [repr(key) for key in keys_of(folder, ids).to_pylist()] if folder else list(map(str, ids))


def distinct_keys(columns: Iterable[Any]) -> Any:
    """Return the distinct keys in some columns of plain keys as an Arrow array, without null."""
    import pyarrow as pa

    keys = [column.unique() for column in columns] or [pa.array([], pa.string())]
    return pa.chunked_array(keys).unique().drop_null()


def _search(folder: str, parts: int, hashes: Array) -> Array:
    """Return the ids (n,) int64 of hashes (n, 2) in the first `parts` parts, NONE for an unknown key."""
    ids = np.full(len(hashes), NONE)
    left = np.argsort(hashes[:, 0])  # sorted, so that pages are read in order
    for first, size in _blocks(parts):
        index = _index(folder, first, size)
        rows, at = left, np.searchsorted(index[:, 0], hashes[left, 0])
        while len(rows):  # once, unless two keys share the first hash
            inside = at < len(index)
            rows, at = rows[inside], at[inside]
            candidate = index[at, 0] == hashes[rows, 0]
            rows, at = rows[candidate], at[candidate]
            same = index[at, 1] == hashes[rows, 1]
            ids[rows[same]] = index[at[same], 2]
            rows, at = rows[~same], at[~same] + 1
        left = left[ids[left] == NONE]
    return ids


def _count(folder: str) -> int:
    """Return the number of parts. Tests names for existence, because a listing of the store may be out of date."""
    low, step = _seen.get(folder, 0), 1
    if low and not filesystem.exists(_part(folder, low - 1)):  # the dataset was deleted, and possibly created again
        low = 0
        _index.cache_clear()
        _group_ids.cache_clear()
        _recent.clear()
    while filesystem.exists(_part(folder, low + step - 1)):
        low, step = low + step, 2 * step
    beyond = range(low, low + step - 1)
    _seen[folder] = low + bisect_left(beyond, True, key=lambda part: not filesystem.exists(_part(folder, part)))
    return _seen[folder]


def _blocks(parts: int) -> Iterator[tuple[int, int]]:
    """Yield the fewest blocks (first part, size) of 1, MERGED, MERGED^2, … parts that cover the first `parts` parts."""
    first, size = 0, MERGED**8
    while first < parts:
        while first + size > parts:
            size //= MERGED
        yield first, size
        first += size


@lru_cache(maxsize=64)
def _index(folder: str, first: int, size: int) -> Array:
    """Return the index rows (n, 3) uint64 of a block of parts: two hashes of a key, and its id. Parts never change."""
    if size == 1:
        return _read_part(_part(folder, first))
    url = KEY_INDEX.url(folder, part=f"{first:05}", last=f"{first + size - 1:05}")
    if not filesystem.exists(url):
        step = size // MERGED
        with filesystem.create(url) as file:
            for rows in _merged([_index(folder, block, step) for block in range(first, first + size, step)]):
                file.write(rows.tobytes())
    return filesystem.map_file(url).view("<u8").reshape(-1, 3)


def _read_part(url: str) -> Array:
    """Return the index rows of one part."""
    table = parquet.read_table(url, ["id", "key"])
    return _sorted(np.column_stack([_hashes(plain_keys(table["key"], url)), table["id"].to_numpy().astype("<u8")]))


def _groups_with(folder: str, ids: Array, parts: int, pool: ThreadPoolExecutor) -> list[tuple[str, int, Array]]:
    """Return (part, row group, rows of this group) that hold some ids (n,), sorted and distinct, in their order."""
    low, high = np.zeros(len(ids), np.int64), np.full(len(ids), parts)
    while (high - low > 1).any():
        middle = (low + high) // 2
        asked, place = np.unique(middle, return_inverse=True)
        first = pool.map(lambda part: _group_ids(_part(folder, part))[0], asked.tolist())
        later = ids >= np.array(list(first))[place]
        low, high = np.where(later, middle, low), np.where(later, high, middle)
    found = []
    for inside in np.split(np.arange(len(ids)), np.flatnonzero(np.diff(low)) + 1) if len(ids) else []:
        url = _part(folder, int(low[inside[0]]))
        starts = _group_ids(url)
        group = np.searchsorted(starts, ids[inside], "right") - 1
        for rows in np.split(np.arange(len(inside)), np.flatnonzero(np.diff(group)) + 1):
            number = int(group[rows[0]])
            found.append((url, number, ids[inside[rows]] - starts[number]))
    return found


@lru_cache(maxsize=2**17)
def _group_ids(url: str) -> Array:
    """Return the first id of each row group of a part, and the id after its last one."""
    metadata = parquet.open_parquet(url, ["id", "key"]).metadata
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    return int(metadata.row_group(0).column(0).statistics.min) + np.cumsum([0, *rows])


def _group_keys(url: str, group: int) -> Any:
    """Return the keys of a row group of a part."""
    found = _recent.find((url, group))
    if found is None:
        found = plain_keys(parquet.open_parquet(url).read_row_group(group, ["key"])["key"].combine_chunks(), url)
        _recent.keep((url, group), found)
    return found


def _size(keys: Any) -> int:
    return int(keys.nbytes) + 1000  # of the objects around the bytes


def _merged(indices: list[Array]) -> Iterator[Array]:
    """Yield the rows of several indices, sorted, in pieces. Evenly spaced cuts of uniform hashes give equal pieces."""
    pieces = -(-sum(map(len, indices)) // SORTED)
    cuts = np.array([2**64 * i // pieces for i in range(1, pieces)], np.uint64)
    bounds = [[0, *np.searchsorted(index[:, 0], cuts), len(index)] for index in indices]
    for piece in range(pieces):
        rows = [index[bound[piece] : bound[piece + 1]] for index, bound in zip(indices, bounds, strict=True)]
        yield _sorted(np.concatenate(rows))


def _sorted(rows: Array) -> Array:
    return rows[np.argsort(rows[:, 0])]


def plain_keys(column: Any, where: str) -> Any:
    """Return a column of keys as bytes if it holds bytes, else as strings.

    Raises ValueError, with `where`, for lists, structs and floats, and for strings that are not in UTF-8.
    """
    import pyarrow as pa
    from pyarrow import types

    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if types.is_nested(column.type) or types.is_floating(column.type):
        raise ValueError(f"expected keys of strings, bytes, UUIDs or integers, found {column.type}, in {where}")
    texts = types.is_string, types.is_large_string, types.is_string_view
    bytes_ = types.is_binary, types.is_large_binary, types.is_fixed_size_binary, types.is_binary_view
    for plain, kinds in ((pa.string(), texts), (pa.binary(), bytes_)):
        if any(is_kind(column.type) for is_kind in kinds):
            found = column.cast(plain)
            if not media.is_utf8(found):
                raise ValueError(f"expected keys in UTF-8, found other bytes, in {where}: store them as binary")
            return found
    return pa.array([None if key is None else str(key) for key in column.to_pylist()], pa.string())


def _hashes(keys: Any) -> Array:
    """Return 128 bits (n, 2) uint64 of the BLAKE2b hash of each key: enough to rule out collisions."""
    import pyarrow as pa

    hashes = np.empty((len(keys), 2), "<u8")
    for row in range(0, len(keys), HASHED):
        contents = keys.slice(row, HASHED).cast(pa.binary()).to_pylist()
        digests = b"".join(hashlib.blake2b(key, digest_size=16).digest() for key in contents)
        hashes[row : row + HASHED] = np.frombuffer(digests, "<u8").reshape(-1, 2)
    return hashes


def _part(folder: str, number: int) -> str:
    return KEY_PART.url(folder, part=f"{number:05}")
