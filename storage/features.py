"""Feature datasets: Parquet shards of (id, vector | image | text, labels), written here or used where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hashing.mapreduce import Array, Batch, Shard

from . import bundles, columns, filesystem, keys, media, parquet, splits, tombstones
from .filesystem import Entry
from .formats import Rows
from .splits import Kind

BATCH_BYTES = 2**24
BadRows = Literal["refuse", "drop"]


class SourceChanged(ValueError):
    """A shard is no longer as it was listed."""


class Columns(BaseModel):
    """The names of the columns of a dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = "id"
    keyed: bool = False  # the id column holds strings, whose ids lie in `datasets/<name>/keys/`
    x: str = "vector"
    labels: str | None = None


class Dataset(BaseModel):
    """A named dataset as it lies in the warehouse: `datasets/<name>/dataset.json`, written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    name: str
    kind: Kind = "vector"
    queries_in_base: bool = False  # a query of the same id as a row of the database is that row, and not ranked
    dim: int  # d, of vectors; the numbers that a picture or a text is read as
    splits: dict[str, str]  # split -> URL of its folder
    columns: Columns = Columns()
    keys: str = ""  # URL of the folder of the map from key to id, where rows are keyed
    source: str  # where it came from, and what it was
    # of a run, which sets them, and of no file:
    bad_rows: BadRows = Field("refuse", exclude=True)  # what is done with rows that are no vectors
    deleted: tuple[str, ...] = Field((), exclude=True)  # storage.tombstones.notes, of rows that are left out

    def shards(self, split: str, vocabulary: tuple[str | int, ...] = ()) -> list[FeatureShard]:
        """The shards of a split as they are now, by name. Raises FileNotFoundError where there are none."""
        root = self.splits[split]
        files = {filesystem.below(root, file.url): file for file in filesystem.listing(root, ".parquet")}
        marks = tombstones.marks(self.deleted, split)
        return [
            FeatureShard(
                url=files[names[0]].url,
                name=names[0] if len(names) == 1 else f"{names[0]}+",
                version=bundles.version({name: files[name].version + marks.get(name, "") for name in names}),
                dim=self.dim,
                kind=self.kind,
                columns=self.columns,
                vocabulary=vocabulary,
                keys=self.keys,
                files=tuple(files[name] for name in names),
                drop=self.bad_rows == "drop",
                deleted=self.deleted,
            )
            for names in bundles.bundled(files)
        ]


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
    files: tuple[Entry, ...] = ()  # all of them, as they were listed; the one at url, if none
    kind: Kind = "vector"
    drop: bool = False  # leave out rows that are no vectors, instead of refusing the shard
    deleted: tuple[str, ...] = ()  # notes of rows to leave out

    @property
    def rows(self) -> int:
        """From footers alone, where no row of the dataset is deleted; else from the ids."""
        if not self.deleted:
            return sum(int(parquet.opened(url).metadata.num_rows) for url in self._urls)
        gone = tombstones.ids(self.deleted)
        return sum(int((~np.isin(self.ids(url), gone)).sum()) for url in self._urls)

    def ids(self, url: str) -> Array:
        """The ids of a file's rows, deleted ones too, from their column alone."""
        column = parquet.column(url, self.columns.id)
        return keys.ids_of(self.keys, column, url) if self.columns.keyed else columns.ids(column, url)

    def holding(self, wanted: Array) -> dict[str, int]:
        """How many rows of some ids each file has, by its URL; those that have none are not in it."""
        found = {url: int(np.isin(self.ids(url), wanted).sum()) for url in self._urls}
        return {url: rows for url, rows in found.items() if rows}

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
        keyed = None
        if self.columns.keyed:  # all at once: the map is searched through a table that takes time to build
            keyed = self.ids(url)
        row, gone = 0, tombstones.ids(self.deleted)
        for part in parquet.batches(url, wanted, batch_rows(self.dim)):
            ids = columns.ids(part[wanted[0]], url, row) if keyed is None else keyed[row : row + len(part)]
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
        for file in self.files or (Entry(self.url, 0, self.version),):
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
        parts = (part for url in self._urls for part in parquet.batches(url, [name]))
        return set().union(*(columns.distinct_labels(part[name], self.url) for part in parts))

    def row_keys(self) -> set[str]:
        """The keys of the rows, from their column alone; none where rows have ids of their own."""
        if not self.columns.keyed:
            return set()
        parts = (part for url in self._urls for part in parquet.batches(url, [self.columns.id]))
        return {key for part in parts for key in part[0].to_pylist() if key is not None}


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


def dataset_url(warehouse: str, name: str) -> str:
    return filesystem.join(warehouse, "datasets", name)


def known(warehouse: str, name: str) -> bool:
    """Whether a dataset of that name was ingested."""
    return filesystem.exists(filesystem.join(dataset_url(warehouse, name), "dataset.json"))


def load(warehouse: str, name: str) -> Dataset:
    """The dataset of a name. Raises LookupError where none was ingested."""
    if not known(warehouse, name):
        raise LookupError(f"expected a dataset {name!r} in {warehouse}, found none: `hashkiln ingest` brings it")
    content = filesystem.read(filesystem.join(dataset_url(warehouse, name), "dataset.json"))
    return Dataset.model_validate_json(content)


def save(warehouse: str, dataset: Dataset) -> None:
    content = dataset.model_dump_json(indent=2).encode()
    filesystem.write(filesystem.join(dataset_url(warehouse, dataset.name), "dataset.json"), content)


def describe(urls: Iterable[str], named: Columns) -> tuple[Kind, int]:
    """Kind and dimension of the rows of Parquet files. Raises ValueError where columns, or rows, are not there."""
    for url in urls:  # the first ones may be empty
        schema = parquet.opened(url).schema_arrow
        for name in filter(None, (named.id, named.x, named.labels)):
            if name not in schema.names:
                raise ValueError(f"expected a column {name}, found {', '.join(schema.names)}, in {url}")
        found = media.kind(schema.field(named.x).type)
        for name in filter(None, (None if found else named.x, named.labels)):
            if not hasattr(schema.field(name).type, "value_type"):
                what = "numbers" if name == named.x else "labels"
                raise ValueError(
                    f"expected lists of {what} in column {name}, found {schema.field(name).type}, in {url}"
                )
        for part in parquet.batches(url, [named.x], 64):
            if found and len(part):
                return found, media.dim(found)
            lengths = [len(x) for x in part[0].to_pylist() if x is not None]
            if lengths:
                return "vector", lengths[0]
    raise ValueError(f"expected rows, found none, in {url}")


def write_split(url: str, rows: Iterable[Rows], rows_per_shard: int | None = None) -> splits.Found:
    """Write rows as shards 00000.parquet, 00001.parquet, … of a folder, each whole or not at all.

    A shard has so many rows; by default as many as splits.ROWS and splits.BYTES allow.
    """
    found: splits.Found | None = None
    for number, blocks in enumerate(splits.groups(rows, rows_per_shard)):
        seen = splits.write_shard(filesystem.join(url, f"{number:05}.parquet"), blocks, found.rows if found else 0)
        if found and seen[:3] != found[:3]:
            raise ValueError(f"expected rows like those before, {found[:3]}, found {seen[:3]} at row {found.rows}")
        found = seen._replace(rows=seen.rows + (found.rows if found else 0))
    if not found:
        raise ValueError(f"expected rows to write to {url}, found none")
    return found
