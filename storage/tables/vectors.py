"""The source vectors of encoded rows, read on demand and cached in a temporary file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from threading import Lock
from weakref import finalize

import numpy as np

from hashing.mapreduce import Array

from ..features.dataset import Dataset
from ..features.deletions import without_suffix
from ..features.shard import FeatureShard, SourceChanged
from ..files.parquet_pages import Unsupported
from ..files.parquet_random import PageReader
from .parts import CodeShard, Part, read_ids

COPIED = 2**12  # rows to copy from another file at a time


class VectorCache:
    """A cache of the source vectors of some parts. Threads may share it.

    Rows are numbered in the order of the parts. If a part has all rows of its source shard, only the pages with the
    requested rows are read. Otherwise, or if PageReader cannot read the vectors, the whole shard is.

    Vectors that the `previous` cache has read are taken over, for the parts that both have.

    Attributes
    ----------
    x : ndarray, shape (n, dim) float32
        The vectors. They are zero until `read` is called with their row.
    """

    def __init__(self, shards: Sequence[CodeShard], dataset: Dataset, previous: VectorCache | None = None) -> None:
        source = unchanged_source(shards, dataset)
        self._starts = np.cumsum([0, *(shard.part.rows for shard in shards)])
        with tempfile.TemporaryFile() as file:  # unnamed: it disappears with the process
            file.truncate(max(1, 4 * int(self._starts[-1]) * dataset.dim))
            self.x = np.asarray(np.memmap(file, np.float32, "r", shape=(int(self._starts[-1]), dataset.dim)))
            descriptor = os.dup(file.fileno())
        finalize(self, os.close, descriptor)
        self._parts = [
            _PartVectors(shard.part, source.get(shard.part.shard), int(start), descriptor, self.x)
            for shard, start in zip(shards, self._starts[:-1], strict=True)
        ]
        if previous:
            known = {part.part.url: part for part in previous._parts}
            for part in self._parts:
                if part.part.url in known:
                    part.take_over(known[part.part.url])

    def read(self, rows: Array) -> Array:
        """Read the vectors of some rows (m,), and return whether each is the one that was encoded (m,).

        Raises OSError if the temporary folder is full.
        """
        rows, place = np.unique(rows, return_inverse=True)
        is_encoded = np.zeros(len(rows), bool)
        part_of = np.searchsorted(self._starts, rows, "right") - 1
        for inside in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(part_of)) + 1) if len(rows) else ():
            part = int(part_of[inside[0]])
            is_encoded[inside] = self._parts[part].read(rows[inside] - self._starts[part])
        return is_encoded[place]

    def read_all(self) -> None:
        """Read all vectors. The source is not needed afterwards."""
        for part in self._parts:
            part.read(np.arange(part.part.rows))

    @property
    def complete(self) -> bool:
        """Whether all vectors were read."""
        return all(part.known.all() for part in self._parts)


class _PartVectors:
    """The vectors of one part, stored from row `first` of the cache file."""

    def __init__(self, part: Part, source: FeatureShard | None, first: int, file: int, x: Array) -> None:
        self.part, self._source, self._file = part, source, file
        self._first, self._x = first, x[first : first + part.rows]
        self.known = np.zeros(part.rows, bool)  # the rows whose vectors were read
        self._pages: list[tuple[int, PageReader]] | None = None  # first row and reader of each file
        self._lock = Lock()

    def read(self, rows: Array) -> Array:
        """Read some rows (m,) of the part, increasing, and return whether each is the one that was encoded."""
        if not self.known[rows].all():
            with self._lock, suppress(SourceChanged):
                if self._source and not (known := self.known[rows]).all():
                    self._read(self._source, rows[~known])
        return self.known[rows]

    def take_over(self, other: _PartVectors) -> None:
        """Copy the vectors that another cache has read."""
        with other._lock:
            known = other.known.copy()
        for start in range(0, self.part.rows, COPIED):
            rows = slice(start, start + COPIED)
            if known[rows].any():
                self._write(start * self._x.shape[1], other._x[rows].reshape(-1))
        self.known = known

    def _read(self, source: FeatureShard, rows: Array) -> None:
        """Read the pages or the shard with some rows. Raises SourceChanged if they are not those that were encoded."""
        known = self.known.copy()
        try:
            try:
                self._read_pages(source, rows, known)
            except (Unsupported, ValueError):  # ValueError: a file of another format
                self._read_all(source, known)
        finally:
            try:
                source.refuse_change()  # a mix of the old and the new file would explain any error
            except SourceChanged:
                self._source = None
                raise
        self.known = known

    def _read_pages(self, source: FeatureShard, rows: Array, known: Array) -> None:
        dim = self._x.shape[1]
        if self._pages is None:
            self._pages = _pages(source, self.part.rows, dim)
        for number, (first, pages) in enumerate(self._pages):
            last = self._pages[number + 1][0] if number + 1 < len(self._pages) else self.part.rows
            mine = rows[np.searchsorted(rows, first) : np.searchsorted(rows, last)] - first
            low, high = (
                np.searchsorted(pages.starts, value, "right") - 1 for value in (mine * dim, mine * dim + dim - 1)
            )
            wanted = np.unique(np.concatenate([np.zeros(0, np.int64), *map(np.arange, low, high + 1)]))
            for page, values in zip(wanted.tolist(), pages.read_pages(wanted.tolist()), strict=True):
                start, stop = pages.starts[page : page + 2].tolist()
                self._write(first * dim + start, values)
                known[first + -(-start // dim) : first + stop // dim] = True
            known[first + mine] = True

    def _read_all(self, source: FeatureShard, known: Array) -> None:
        """Read all rows of the shard. Those that were deleted or dropped are not in the part."""
        ids = read_ids(self.part.url)
        order = np.argsort(ids)
        for batch in source if self.part.rows else ():
            place = np.minimum(np.searchsorted(ids[order], batch.ids), len(ids) - 1)
            rows = order[place]
            present = np.flatnonzero(ids[rows] == batch.ids)
            for run in np.split(present, np.flatnonzero(np.diff(rows[present]) != 1) + 1):
                if len(run):
                    values = batch.x[run].astype(np.float32, copy=False).reshape(-1)
                    self._write(int(rows[run[0]]) * self._x.shape[1], values)
            known[rows[present]] = True

    def _write(self, start: int, values: Array) -> None:
        """Write values (m,) to the file, from a value of the part on, except to known rows: the source may be newer."""
        dim, stop = self._x.shape[1], start + len(values)
        rows = start // dim + np.flatnonzero(~self.known[start // dim : -(-stop // dim)])
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1) if len(rows) else ():
            low, high = max(start, int(run[0]) * dim), min(stop, (int(run[-1]) + 1) * dim)
            content, at = values[low - start : high - start].view(np.uint8).data, 4 * (self._first * dim + low)
            try:
                while len(content):  # by the map, a full disk would end the process
                    done = os.pwrite(self._file, content, at)
                    content, at = content[done:], at + done
            except OSError as error:
                where = f"cannot keep vectors in {tempfile.gettempdir()}"
                raise OSError(error.errno, f"{where}: {error.strerror}; set TMPDIR to another folder") from None


def _pages(source: FeatureShard, rows: int, dim: int) -> list[tuple[int, PageReader]]:
    """Return the first row and the reader of each file of a shard. Raises Unsupported unless it has some rows."""
    if source.kind != "vector" or source.columns.dtype:
        raise Unsupported("no lists of numbers")
    first, pages = 0, []
    for url in source.urls:
        pages.append((first, PageReader(url, source.columns.x, dim)))
        first += int(pages[-1][1].starts[-1]) // dim
    if first != rows:
        raise Unsupported("deleted or dropped rows")
    return pages


def unchanged_source(shards: Sequence[CodeShard], dataset: Dataset) -> dict[str, FeatureShard]:
    """Return the source shards whose vectors are those that were encoded, by name, with their deleted rows."""
    encoded = {shard.part.shard: shard.part for shard in shards}
    now = {shard.name: shard.version for shard in dataset.shards("base")}
    return {
        shard.name: shard
        for shard in dataset.model_copy(update={"deleted": ()}).shards("base")
        if (part := encoded.get(shard.name))
        and (part.version == now[shard.name] or without_suffix(part.version) == shard.version)
    }
