"""Shards of a feature dataset: Parquet files read in batches, each value checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from hashing.mapreduce import Array, Batch, Shard

from ..files import filesystem, parquet
from ..files.filesystem import FileVersion
from . import columns, deletions, keys
from .splits import Kind

BATCH_BYTES = 2**24


class SourceChanged(ValueError):
    """A shard is no longer as it was listed."""


class Columns(BaseModel):
    """The names of the columns of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = "id"
    keyed: bool = False  # the id column holds strings, whose ids lie in `datasets/<name>/keys/`
    x: str = "vector"
    labels: str | None = None


class Block(NamedTuple):
    """Consecutive rows of a shard as they are encoded."""

    batch: Batch
    labels: Any  # list<int32>: the places of their labels in the vocabulary; None where there are none
    dropped: list[tuple[str, int, int, str]]  # rows that are not in the batch: (file, row, id, what is wrong)


@dataclass(frozen=True)
class FeatureShard:
    """One Parquet file of a dataset, or a bundle of tiny ones. Iterating reads it anew, and checks every value."""

    url: str  # of the file, or of the first
    name: str  # the path below its split, with a + where others follow: the shard's identity
    version: str  # size and time, or size and ETag, and which rows were deleted: what tells that it has changed
    dim: int
    columns: Columns
    vocabulary: tuple[str | int, ...] = ()
    keys: str = ""
    files: tuple[FileVersion, ...] = ()  # all of them, as they were listed; the one at url, if none
    kind: Kind = "vector"
    drop: bool = False  # leave out rows that are no vectors, instead of refusing the shard
    deleted: tuple[str, ...] = ()  # notes of rows to leave out

    @property
    def rows(self) -> int:
        """From footers alone, where no row of the dataset is deleted; else from the ids."""
        if not self.deleted:
            return sum(int(parquet.open_parquet(url).metadata.num_rows) for url in self._urls)
        gone = deletions.deleted_ids(self.deleted)
        return sum(int((~np.isin(self.ids(url), gone)).sum()) for url in self._urls)

    def ids(self, url: str) -> Array:
        """The ids of a file's rows, deleted ones too, from their column alone."""
        return self._ids(parquet.read_column(url, self.columns.id), url)

    def holding(self, wanted: Array) -> dict[str, Array]:
        """Return which of some ids each file has rows of, by its URL; files that have none are left out."""
        found = {url: ids[np.isin(ids, wanted)] for url, ids in ((url, self.ids(url)) for url in self._urls)}
        return {url: ids for url, ids in found.items() if len(ids)}

    @property
    def _urls(self) -> tuple[str, ...]:
        return tuple(file.url for file in self.files) or (self.url,)

    def __iter__(self) -> Iterator[Batch]:
        for batch, labels, _ in self.read():
            y = columns.multi_hot(labels, len(self.vocabulary)) if labels is not None else None
            yield Batch(batch.ids, batch.x, y)

    def read(self) -> Iterator[Block]:
        """The rows with their labels, and what was dropped. ValueError, with file and row, for what is refused."""
        for url in self._urls:
            yield from self._read(url)

    def _read(self, url: str) -> Iterator[Block]:
        wanted = [self.columns.id, self.columns.x]
        if self.columns.labels and self.vocabulary:
            wanted.append(self.columns.labels)
        row, gone = 0, deletions.deleted_ids(self.deleted)
        for part in parquet.read_batches(url, wanted, batch_rows(self.dim)):
            ids = self._ids(part[wanted[0]], url, row)
            x, faults = columns.usable(part[wanted[1]], self.dim, url, self.kind)
            kept = ~np.isin(ids, gone)
            if not kept.all():
                x = x[np.delete(kept, list(faults))]
                faults = {i: what for i, what in faults.items() if kept[i]}
            if faults and not self.drop:
                columns.refuse(faults, url, row)
            labels = None
            if len(wanted) == 3:
                labels = columns.label_indices(part[wanted[2]], self.vocabulary, url)
            dropped = [(url, row + i, int(ids[i]), what) for i, what in sorted(faults.items())]
            kept[list(faults)] = False
            if not kept.all():
                ids, labels = ids[kept], None if labels is None else labels.take(np.flatnonzero(kept))
            yield Block(Batch(ids, x), labels, dropped)
            row += len(part)

    def refuse_change(self) -> None:
        """Raises SourceChanged where a file is no longer as it was listed."""
        for file in self.files or (FileVersion(self.url, 0, self.version),):
            try:
                found = filesystem.stat(file.url).version
            except FileNotFoundError:
                raise SourceChanged(f"expected {file.url} as it was listed, found it gone") from None
            if found != file.version:
                raise SourceChanged(
                    f"expected {file.url} as it was listed ({file.version}), found it changed ({found})"
                )

    def labels(self) -> set[str | int]:
        """The distinct labels, from the label column alone."""
        if not (name := self.columns.labels):
            return set()
        parts = (part for url in self._urls for part in parquet.read_batches(url, [name]))
        return set().union(*(columns.distinct_labels(part[name], self.url) for part in parts))

    def row_keys(self) -> Any:
        """Return the distinct keys of the rows, an Arrow array, from their column alone."""
        parts = (part for url in self._urls for part in parquet.read_batches(url, [self.columns.id]))
        return keys.distinct(part[0] for part in parts)

    def _ids(self, column: Any, url: str, first_row: int = 0) -> Array:
        if self.columns.keyed:
            return keys.ids_of(self.keys, column, url, first_row)
        return columns.ids(column, url, first_row)


@dataclass(frozen=True)
class Without:
    """A shard less the rows of some ids: training data without the frozen queries."""

    shard: Shard
    ids: Array  # (m,) int64

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.shard:
            yield batch.take(~np.isin(batch.ids, self.ids))


def batch_rows(dim: int) -> int:
    """Rows of a batch: some 16 MB of float32, a multiple of the rows that are encoded at a time, of pictures 128."""
    rows = BATCH_BYTES // (4 * dim)
    return max(1, rows // 4096) * 4096 if dim <= 2**13 else max(1, 4 * rows // 128) * 128
