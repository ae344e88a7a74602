"""Feature datasets: Parquet shards of (id, vector | image | text, labels), written here or used where they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from .. import warehouse as places
from ..files import filesystem, parquet
from ..formats import FeatureRows
from . import bundles, deletions, media, splits
from .shard import Columns, FeatureShard
from .splits import Kind

BadRows = Literal["refuse", "drop"]


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
        files = {filesystem.relative_path(root, file.url): file for file in filesystem.listing(root, ".parquet")}
        marks = deletions.marks(self.deleted, split)
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


def dataset_url(warehouse: str, name: str) -> str:
    return places.DATASET_FOLDER.url(warehouse, dataset=name)


def dataset_exists(warehouse: str, name: str) -> bool:
    """Whether a dataset of that name was ingested."""
    return filesystem.exists(places.DATASET.url(warehouse, dataset=name))


def load_dataset(warehouse: str, name: str) -> Dataset:
    """The dataset of a name. Raises LookupError where none was ingested."""
    if not dataset_exists(warehouse, name):
        raise LookupError(f"expected a dataset {name!r} in {warehouse}, found none: `hashkiln ingest` brings it")
    content = filesystem.read_bytes(places.DATASET.url(warehouse, dataset=name))
    return Dataset.model_validate_json(content)


def save_dataset(warehouse: str, dataset: Dataset) -> None:
    content = dataset.model_dump_json(indent=2).encode()
    filesystem.write_bytes(places.DATASET.url(warehouse, dataset=dataset.name), content)


def describe(urls: Iterable[str], named: Columns) -> tuple[Kind, int]:
    """Kind and dimension of the rows of Parquet files. Raises ValueError where columns, or rows, are not there."""
    for url in urls:  # the first ones may be empty
        schema = parquet.open_parquet(url).schema_arrow
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
        for part in parquet.read_batches(url, [named.x], 64):
            if found and len(part):
                return found, media.dim(found)
            lengths = [len(x) for x in part[0].to_pylist() if x is not None]
            if lengths:
                return "vector", lengths[0]
    raise ValueError(f"expected rows, found none, in {url}")


def write_split(url: str, rows: Iterable[FeatureRows], rows_per_shard: int | None = None) -> splits.SplitShape:
    """Write rows as shards 00000.parquet, 00001.parquet, … of a folder, each whole or not at all.

    A shard has so many rows; by default as many as splits.ROWS and splits.BYTES allow.
    """
    found: splits.SplitShape | None = None
    for number, blocks in enumerate(splits.groups(rows, rows_per_shard)):
        seen = splits.write_shard(filesystem.join(url, f"{number:05}.parquet"), blocks, found.rows if found else 0)
        if found and seen[:3] != found[:3]:
            raise ValueError(f"expected rows like those before, {found[:3]}, found {seen[:3]} at row {found.rows}")
        found = seen._replace(rows=seen.rows + (found.rows if found else 0))
    if not found:
        raise ValueError(f"expected rows to write to {url}, found none")
    return found
