"""Feature datasets: Parquet shards of (id, vector | image | text, labels), written here or used where they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict

from hashing.mapreduce import Array, Batch, Shard

from . import columns, filesystem, keys
from .formats import Rows

ROWS_PER_SHARD, SHARD_BYTES = 125_000, 2**25  # at most, in bytes of float32: few wide rows busy several workers
BATCH_BYTES = 2**24
Kind = Literal["vector", "image", "text"]


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
    dim: int | None  # d, of vectors
    splits: dict[str, str]  # split -> URL of its folder
    columns: Columns = Columns()
    keys: str = ""  # URL of the folder of the map from key to id, where rows are keyed
    source: str  # where it came from, and what it was

    def shards(self, split: str, vocabulary: tuple[str | int, ...] = ()) -> list[FeatureShard]:
        """The shards of a split as they are now, by name. Raises FileNotFoundError where there are none."""
        if self.kind != "vector" or self.dim is None:
            raise ValueError(f"expected a dataset of vectors, found {self.kind}s in {self.name}: embed them first")
        root = self.splits[split]
        return [
            FeatureShard(f.url, filesystem.below(root, f.url), f.version, self.dim, self.columns, vocabulary, self.keys)
            for f in filesystem.listing(root, ".parquet")
        ]


@dataclass(frozen=True)
class FeatureShard:
    """One Parquet file of a dataset. Iterating reads it anew, and checks every value."""

    url: str
    name: str  # the path below its split: the shard's identity
    version: str  # size and time, or size and ETag: what tells that it has changed
    dim: int
    columns: Columns
    vocabulary: tuple[str | int, ...] = ()
    keys: str = ""

    @property
    def rows(self) -> int:
        return int(_parquet(self.url).metadata.num_rows)

    def __iter__(self) -> Iterator[Batch]:
        for batch, labels in self.read():
            y = columns.multi_hot(labels, len(self.vocabulary)) if labels is not None else None
            yield Batch(batch.ids, batch.x, y)

    def read(self) -> Iterator[tuple[Batch, Any]]:
        """Batches with the list<int32> column of their labels' places in the vocabulary beside them, if any."""
        file = _parquet(self.url)
        wanted = [self.columns.id, self.columns.x]
        if self.columns.labels and self.vocabulary:
            wanted.append(self.columns.labels)
        if missing := set(wanted) - set(file.schema_arrow.names):
            found = ", ".join(file.schema_arrow.names)
            raise ValueError(f"expected the columns {', '.join(sorted(missing))}, found {found}, in {self.url}")
        keyed = None
        if self.columns.keyed:  # all at once: the map is searched through a table that takes time to build
            keyed = keys.ids_of(self.keys, file.read([self.columns.id])[0].combine_chunks(), self.url)
        row = 0
        for part in file.iter_batches(batch_rows(self.dim), columns=wanted):
            ids = columns.ids(part[self.columns.id], self.url) if keyed is None else keyed[row : row + len(part)]
            x = columns.vectors(part[self.columns.x], self.dim, self.url, row)
            labels = None
            if len(wanted) == 3:
                labels = columns.label_indices(part[self.columns.labels], self.vocabulary, self.url)
            yield Batch(ids, x), labels
            row += len(ids)

    def labels(self) -> set[str | int]:
        """The distinct labels, from the label column alone."""
        if not self.columns.labels:
            return set()
        parts = _parquet(self.url).iter_batches(columns=[self.columns.labels])
        return set().union(*(columns.distinct_labels(part[0]) for part in parts))

    def row_keys(self) -> set[str]:
        """The keys of the rows, from their column alone; none where rows have ids of their own."""
        if not self.columns.keyed:
            return set()
        parts = _parquet(self.url).iter_batches(columns=[self.columns.id])
        return {key for part in parts for key in part[0].to_pylist() if key is not None}


@dataclass(frozen=True)
class Without:
    """A shard less the rows of some ids: training data without the frozen queries."""

    shard: Shard
    ids: Array  # (m,) int64

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.shard:
            yield batch.take(~np.isin(batch.ids, self.ids))


class Found(NamedTuple):
    """What an ingest saw."""

    kind: Kind
    dim: int | None
    labelled: bool
    rows: int


def batch_rows(dim: int) -> int:
    """Rows of a batch: some 16 MB of float32, a multiple of the 4096 rows that are encoded at a time."""
    return max(1, BATCH_BYTES // (4 * dim) // 4096) * 4096


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


def describe(url: str, named: Columns) -> tuple[Kind, int | None]:
    """Kind and dimension of a Parquet file's rows. Raises ValueError where the columns are not there."""
    schema = _parquet(url).schema_arrow
    for name in filter(None, (named.id, named.x, named.labels)):
        if name not in schema.names:
            raise ValueError(f"expected a column {name}, found {', '.join(schema.names)}, in {url}")
    kind = schema.field(named.x).type
    if not hasattr(kind, "value_type"):
        raise ValueError(f"expected lists of numbers in column {named.x}, found {kind}, in {url}")
    first = next(_parquet(url).iter_batches(1, columns=[named.x]), None)
    if first is None:
        raise ValueError(f"expected rows, found none, in {url}")
    return "vector", len(first[0][0])


def write_split(url: str, rows: Iterable[Rows], rows_per_shard: int | None = None) -> Found:
    """Write rows as shards 00000.parquet, 00001.parquet, … of a folder, each whole or not at all.

    A shard has so many rows; by default as many as ROWS_PER_SHARD and SHARD_BYTES allow.
    """
    found: Found | None = None
    for number, blocks in enumerate(_groups(rows, rows_per_shard)):
        seen = _write_shard(filesystem.join(url, f"{number:05}.parquet"), blocks, found.rows if found else 0)
        if found and seen[:3] != found[:3]:
            raise ValueError(f"expected rows like those before, {found[:3]}, found {seen[:3]} at row {found.rows}")
        found = seen._replace(rows=seen.rows + (found.rows if found else 0))
    if not found:
        raise ValueError(f"expected rows to write to {url}, found none")
    return found


def _groups(blocks: Iterable[Rows], n: int | None) -> Iterator[list[Rows]]:
    """The rows of some blocks in groups of n, the last one shorter."""
    held: list[Rows] = []
    count = 0
    for block in blocks:
        if not n:
            width = 4 * block.x[0].size if isinstance(block.x, np.ndarray) and len(block.x) else 1
            n = min(ROWS_PER_SHARD, max(1, SHARD_BYTES // width))
        while count + len(block.ids) >= n:
            yield [*held, _slice(block, 0, n - count)]
            block, held, count = _slice(block, n - count, len(block.ids)), [], 0
        if len(block.ids):
            held.append(block)
            count += len(block.ids)
    if held:
        yield held


def _slice(rows: Rows, start: int, stop: int) -> Rows:
    labels = None if rows.labels is None else rows.labels[start:stop]
    return Rows(rows.ids[start:stop], rows.x[start:stop], labels)


def _write_shard(url: str, blocks: list[Rows], first_row: int) -> Found:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.concat_tables([_table(block, url, first_row) for block in blocks])
    kind: Any = table.schema.names[1]
    listed = pa.types.is_fixed_size_list(table.schema.types[1])
    with filesystem.create(url) as file:
        pq.write_table(table, file, row_group_size=2**15, compression="zstd", use_dictionary=["labels"])
    dim = table.schema.types[1].list_size if listed else None
    return Found(kind, dim, "labels" in table.schema.names, len(table))


def _table(rows: Rows, url: str, first_row: int) -> Any:
    import pyarrow as pa

    if isinstance(rows.x, np.ndarray):
        x = np.ascontiguousarray(rows.x)
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            row = first_row + int(np.flatnonzero(~np.isfinite(x).all(1))[0])
            raise ValueError(f"expected finite numbers, found NaN or infinity, in row {row} on the way to {url}")
        values = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])
        name = "vector"
    else:
        name = "text" if isinstance(rows.x[0], str) else "image"
        values = pa.array(rows.x)
    fields = [pa.field("id", pa.int64(), nullable=False), pa.field(name, values.type, nullable=False)]
    arrays = [pa.array(rows.ids, pa.int64()), values]
    if rows.labels is not None:
        arrays.append(pa.array(rows.labels))
        fields.append(pa.field("labels", arrays[-1].type))
    return pa.table(arrays, schema=pa.schema(fields))


def _parquet(url: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, path = filesystem.arrow(url)
    try:
        return pq.ParquetFile(path, filesystem=fs, pre_buffer=False)
    except pa.ArrowInvalid as error:
        raise ValueError(f"expected a Parquet file, found something else, in {url}: {error}") from None
