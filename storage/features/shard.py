"""Shards of a feature dataset: Parquet files, read in batches. Every value is checked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hashing.mapreduce import Array, Batch, Shard

from ..files import filesystem
from ..files.filesystem import FileVersion
from ..formats import Kind
from . import columns, deletions, keys, rows
from .rows import Columns

BATCH_BYTES = 2**24


class SourceChanged(ValueError):
    """A file of a shard changed or disappeared after it was listed."""


class FeatureBlock(NamedTuple):
    """Consecutive rows of a shard, as read for encoding."""

    batch: Batch  # its x may be overwritten by the block after the next one
    labels: Any  # Arrow list<int32>, positions in the vocabulary; None without labels
    dropped: list[tuple[str, int, int, str]]  # rows left out of the batch: (file, row, id, error)
    names: Any = None  # Arrow array of the keys, if the shard has allow_unknown


@dataclass(frozen=True)
class FeatureShard:
    """One file of a dataset, or a bundle of tiny ones. Each iteration reads and checks the rows again.

    >>> import tempfile
    >>> import pyarrow as pa
    >>> import pyarrow.parquet as pq
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pq.write_table(pa.table({"id": [7], "vector": [[0.0, 1.0]]}), url := f"{folder}/mine.parquet")
    ...     list(FeatureShard(url, "mine.parquet", "v1", dim=2, columns=Columns()))
    [Batch(ids=array([7]), x=array([[0., 1.]], dtype=float32), y=None)]
    """

    url: str  # of the file, or of the first file of a bundle
    name: str  # identity of the shard: the path below the folder of its split, followed by + for a bundle
    version: str  # size and time, or size and ETag, and deletions: differs if the rows may have changed
    dim: int
    columns: Columns
    vocabulary: tuple[str | int, ...] = ()
    classes: Sequence[int] | None = None  # labels that y has columns for, as positions in the vocabulary; None: all
    keys: str = ""
    files: tuple[FileVersion, ...] = ()  # all files, as listed; if empty, the one at url
    beside: tuple[FileVersion, ...] = ()  # the files of metadata that belong to these
    firsts: tuple[int, ...] = ()  # id of the first row of each file, if rows are numbered
    kind: Kind = "vector"
    metric: str = "euclidean"
    drop_bad_rows: bool = False  # drop rows that cannot be read, instead of refusing the shard
    deleted: tuple[str, ...] = ()  # URLs of deletion files, whose rows are skipped
    allow_unknown: bool = False  # give rows whose key has no id the id keys.NONE, instead of refusing the shard
    refuse_changed: bool = False  # raise SourceChanged after the last batch if a file is no longer as it was listed

    @property
    def rows(self) -> int:
        """Return the number of rows, read from the footers; with deletions, from the id columns."""
        if not self.deleted:
            return sum(rows.count_rows(url) for url in self.urls)
        deleted = deletions.deleted_ids(self.deleted)
        return sum(int((~np.isin(self.ids(url), deleted)).sum()) for url in self.urls)

    def ids(self, url: str) -> Array:
        """Return the ids (n,) int64 of a file, deleted rows included. Reads only the id column."""
        if self.columns.numbered:
            return self._numbers(url, 0, rows.count_rows(url))
        parts = rows.read_batches(url, [self.columns.id], self.columns)
        return np.concatenate([np.zeros(0, np.int64), *(self._ids(part[0], url) for part in parts)])

    def ids_in(self, part: Any, url: str, first_row: int) -> Array:
        """Return the ids (n,) int64 of a record batch of a file, deleted rows included."""
        if self.columns.numbered:
            return self._numbers(url, first_row, len(part))
        return self._ids(part[self.columns.id], url, first_row)

    def ids_by_file(self, wanted: Array) -> dict[str, Array]:
        """Return the wanted ids that each file contains, by its URL. Files that contain none are left out."""
        held = {url: ids[np.isin(ids, wanted)] for url, ids in ((url, self.ids(url)) for url in self.urls)}
        return {url: ids for url, ids in held.items() if len(ids)}

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(file.url for file in self.files) or (self.url,)

    def __iter__(self) -> Iterator[Batch]:
        classes = range(len(self.vocabulary)) if self.classes is None else self.classes
        step = columns.labelled_rows(len(classes))
        for (ids, x, _), labels, *_ in self.read_blocks():
            if labels is None:
                yield Batch(ids, x.copy())
                continue
            for start in range(0, max(1, len(ids)), step):
                rows = slice(start, start + step)
                yield Batch(ids[rows], x[rows].copy(), columns.multi_hot_labels(labels[rows], classes))
        if self.refuse_changed:
            self.refuse_change()

    def read_blocks(self) -> Iterator[FeatureBlock]:
        """Yield the rows in blocks, with labels and the rows that were dropped.

        Raises ValueError, with file and row, for a value that cannot be read. With `drop_bad_rows`, vectors, images and
        texts that cannot be read are dropped instead; ids and labels must be valid in any case.
        """
        for url in self.urls:
            yield from self._read_file(url)

    def _read_file(self, url: str) -> Iterator[FeatureBlock]:
        read = [] if self.columns.numbered else [self.columns.id]
        if self.columns.labels and self.vocabulary:
            read.append(self.columns.labels)
        labelled = self.columns.labels in read
        row, deleted = 0, deletions.deleted_ids(self.deleted)
        dim = self.dim if self.kind == "vector" and not self.columns.dtype else 0
        for part, vectors, finite in rows.read_vectors(url, dim, read, self.columns, batch_rows(self.dim)):
            ids = self.ids_in(part, url, row)
            x, errors = columns.usable_rows(vectors, self.dim, url, self.kind, self.columns.dtype, self.metric, finite)
            keep = ~np.isin(ids, deleted)
            if not keep.all():
                x = x[np.delete(keep, list(errors))]
                errors = {i: error for i, error in errors.items() if keep[i]}
            if errors and not self.drop_bad_rows:
                if self.columns.keyed:
                    i = min(errors)
                    errors = {i: f"{errors[i]}, for key {keys.plain_keys(part[read[0]].slice(i, 1), url)[0].as_py()!r}"}
                columns.refuse_row(errors, url, row, columns.DROP)
            labels = None
            if labelled:
                labels = columns.label_indices(part[self.columns.labels], self.vocabulary, url, self.columns.multi_hot)
            dropped = [(url, row + i, int(ids[i]), error) for i, error in sorted(errors.items())]
            keep[list(errors)] = False
            if not keep.all():
                ids, labels = ids[keep], None if labels is None else labels.take(np.flatnonzero(keep))
            names = keys.plain_keys(part[read[0]], url).take(np.flatnonzero(keep)) if self.allow_unknown else None
            yield FeatureBlock(Batch(ids, x), labels, dropped, names)
            row += len(part)

    def refuse_change(self) -> None:
        """Raise SourceChanged if a file changed or disappeared since it was listed."""
        for file in (*(self.files or (FileVersion(self.url, 0, self.version),)), *self.beside):
            try:
                version = filesystem.stat(file.url).version
            except FileNotFoundError:
                raise SourceChanged(f"{file.url} was removed after it was listed") from None
            if file.version and version != file.version:  # pieces have none (`Dataset.files`)
                raise SourceChanged(f"{file.url} changed after it was listed: from {file.version} to {version}")

    def distinct_labels(self) -> set[str | int]:
        """Return the distinct labels. Reads only the label column."""
        if not (name := self.columns.labels):
            return set()
        parts = (part for url in self.urls for part in rows.read_batches(url, [name], self.columns))
        width = self.columns.multi_hot
        return set().union(*(columns.distinct_labels(part[name], self.url, width) for part in parts))

    def distinct_keys(self) -> Any:
        """Return the distinct keys as an Arrow array. Reads only the key column. Raises ValueError as `plain_keys`."""
        parts = (
            (part[0], url) for url in self.urls for part in rows.read_batches(url, [self.columns.id], self.columns)
        )
        return keys.distinct_keys(keys.plain_keys(column, url) for column, url in parts)

    def _numbers(self, url: str, row: int, n: int) -> Array:
        first = self.firsts[self.urls.index(url)] + row
        return np.arange(first, first + n)

    def _ids(self, column: Any, url: str, first_row: int = 0) -> Array:
        if self.columns.keyed:
            return keys.column_ids(self.keys, column, url, first_row, self.allow_unknown)
        return columns.ids(column, url, first_row)


@dataclass(frozen=True)
class WithoutRows:
    """A shard without the rows that have certain ids, such as training data without the queries."""

    shard: Shard
    ids: Array  # (m,) int64

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.shard:
            yield batch.take(~np.isin(batch.ids, self.ids))


def batch_rows(dim: int) -> int:
    """Return the number of rows in a batch: about 16 MB of float32, and a multiple of the rows encoded at a time.

    The multiple is 4096 rows, or 128 rows of pictures.
    """
    rows = BATCH_BYTES // (4 * dim)
    return max(1, rows // 4096) * 4096 if dim <= 2**13 else max(1, 4 * rows // 128) * 128
