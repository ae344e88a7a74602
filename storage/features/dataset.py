"""Feature datasets: Parquet shards of (id, vector | image | text, labels), in the warehouse or in place."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from hashing.names import hint

from .. import warehouse as places
from ..files import filesystem
from ..files.filesystem import FileVersion
from ..formats import FIRST_IDS, FeatureRows, Kind, Metric
from . import bundles, deletions, rows, splits
from .rows import Columns
from .shard import FeatureShard
from .summary import SplitSummary

COUNTERS = 16  # files whose rows are counted at a time
BadRows = Literal["refuse", "drop"]


class Embedding(BaseModel):
    """How a dataset was embedded: its vectors are those of the pictures or texts of another dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str  # name of the other dataset
    encoder: str  # name or path of the encoder, as the user gave it
    digest: str  # its identity: weights, preprocessing and adapter
    bad_rows: BadRows = "refuse"  # whether rows of the source that cannot be read were refused or dropped
    pieces: dict[
        str, dict[str, str]
    ]  # split -> name of a shard -> name of its file, from a digest of all it depends on


class Dataset(BaseModel):
    """An ingested dataset, as stored in `datasets/<name>/dataset.json`. The file is written last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1, 2, 3, 4, 5] = 5  # 1 to 4: without fields that have defaults, such as metric and embedding
    name: str
    kind: Kind = "vector"
    metric: Metric = "euclidean"  # of exact neighbours and of reranking
    queries_in_base: bool = False  # whether queries with the id of a base row are this row, and not ranked themselves
    dim: int  # dimension of the vectors, or of those that images and texts are converted to
    splits: dict[str, str]  # split -> URL of its folder
    columns: Columns = Columns()
    keys: str = ""  # URL of the folder that maps keys to ids, if rows have keys
    source: str  # origin, and original format
    understood: dict[str, SplitSummary] = {}  # split -> description of its content at ingest
    reading: str = ""  # part of the versions of shards; differs if a replaced dataset was read in another way
    embedding: Embedding | None = None  # if an encoder made the vectors: only the files that it lists belong to it
    # Set by a run, and not stored:
    bad_rows: BadRows = Field("refuse", exclude=True)  # whether to refuse or to drop rows that cannot be read
    deleted: tuple[str, ...] = Field((), exclude=True)  # deletion files, whose rows are skipped

    @property
    def distance(self) -> Literal["euclidean", "cosine", "ip"]:
        """Return the metric of exact neighbours: Hamming distance ranks as Euclidean distance does."""
        return "euclidean" if self.metric == "hamming" else self.metric

    def shards(
        self, split: str, vocabulary: tuple[str | int, ...] = (), allow_unknown: bool = False
    ) -> list[FeatureShard]:
        """Return the current shards of a split, sorted by name.

        Parameters
        ----------
        split
            Name of the split, such as "base".
        vocabulary
            Labels; the shards yield labels as positions in it.
        allow_unknown
            As in FeatureShard.

        Raises
        ------
        FileNotFoundError
            If there are no files.
        """
        files = self.files(split)
        pieces = self.embedding.pieces[split] if self.embedding else {}
        suffixes = deletions.version_suffixes(self.deleted, split)
        beside = rows.metadata_files([file.url for file in files.values()], self.columns)
        firsts = self._first_ids(split, files)

        def version(name: str) -> str:
            added = f"+{beside[files[name].url].version}" if beside else ""
            first = f"@{firsts[name]}" if firsts else ""
            reading = f"={self.reading}" if self.reading else ""
            content = pieces.get(name, files[name].version)
            return content + added + first + reading + suffixes.get(name, "")

        return [
            FeatureShard(
                url=files[names[0]].url,
                name=names[0] if len(names) == 1 else f"{names[0]}+",
                version=bundles.group_version({name: version(name) for name in names}),
                dim=self.dim,
                kind=self.kind,
                metric=self.metric,
                columns=self.columns,
                vocabulary=vocabulary,
                keys=self.keys,
                files=tuple(files[name] for name in names),
                beside=tuple(beside[files[name].url] for name in names) if beside else (),
                firsts=tuple(firsts[name] for name in names) if firsts else (),
                drop_bad_rows=self.bad_rows == "drop",
                deleted=self.deleted,
                allow_unknown=allow_unknown,
            )
            for names in bundles.group_files(files)
        ]

    def files(self, split: str) -> dict[str, FileVersion]:
        """Return the current files of a split by name. Raises FileNotFoundError if there are none or one is missing."""
        root = self.splits[split]
        files = {filesystem.relative_path(root, file.url): file for file in rows.data_files(root)}
        if not self.embedding:
            return files
        try:  # a piece never changes: no version, because `embed` touches pieces that runs may be reading
            return {
                name: files[f"{stem}.parquet"]._replace(version="")
                for name, stem in self.embedding.pieces[split].items()
            }
        except KeyError as error:
            missing = filesystem.join(root, error.args[0])
            raise FileNotFoundError(f"missing file {missing}: run `hashkiln embed` again") from None

    def _first_ids(self, split: str, files: Mapping[str, FileVersion]) -> dict[str, int]:
        """Return the id of the first row of each file, if rows are numbered; else nothing. Counts the rows."""
        if not self.columns.numbered:
            return {}
        with ThreadPoolExecutor(COUNTERS) as pool:
            counts = list(pool.map(lambda file: rows.count_rows(file.url), files.values()))
        starts = np.cumsum([FIRST_IDS[split], *counts])[:-1]
        return dict(zip(files, starts.tolist(), strict=True))


def dataset_url(warehouse: str, name: str) -> str:
    """Return the URL of a dataset's folder."""
    return places.DATASET_FOLDER.url(warehouse, dataset=name)


def dataset_exists(warehouse: str, name: str) -> bool:
    """Return whether a dataset of that name was ingested."""
    return filesystem.exists(places.DATASET.url(warehouse, dataset=name))


def dataset_names(warehouse: str) -> list[str]:
    """Return the names of all ingested datasets, sorted."""
    files = filesystem.inventory(dataset_url(warehouse, ""), 2)
    paths = [filesystem.relative_path(warehouse, file.url) for file in files]
    return [found["dataset"] for path in paths if (found := places.DATASET.pattern.fullmatch(path))]


def load_dataset(warehouse: str, name: str) -> Dataset:
    """Return an ingested dataset. Raises LookupError, with the existing names, if there is none of that name."""
    if not dataset_exists(warehouse, name):
        meant = hint(name, dataset_names(warehouse), "ingested datasets:")
        raise LookupError(f"no dataset {name!r} in {warehouse}: add it with `hashkiln ingest`; {meant}")
    content = filesystem.read_bytes(places.DATASET.url(warehouse, dataset=name))
    return Dataset.model_validate_json(content)


def save_dataset(warehouse: str, dataset: Dataset) -> None:
    """Write a dataset's `dataset.json`, which makes the dataset exist."""
    content = dataset.model_dump_json(indent=2).encode()
    filesystem.write_bytes(places.DATASET.url(warehouse, dataset=dataset.name), content)


def write_split(url: str, blocks: Iterable[FeatureRows], rows_per_shard: int | None = None) -> splits.SplitShape:
    """Write rows as shards 00000.parquet, 00001.parquet, … of a folder, each of them atomically.

    Parameters
    ----------
    url
        The folder.
    blocks
        Rows in order, of one kind and dimension.
    rows_per_shard
        Rows in each shard but the last; by default as many as splits.SHARD_ROWS and splits.SHARD_BYTES allow.

    Raises
    ------
    ValueError
        If there are no rows, if values are not finite, or if rows differ in kind, dimension or in having labels.
    """
    total: splits.SplitShape | None = None
    for number, group in enumerate(splits.cut_into_shards(blocks, rows_per_shard)):
        shape = splits.write_shard(filesystem.join(url, f"{number:05}.parquet"), group, total.rows if total else 0)
        if total and shape[:3] != total[:3]:
            before, found = (f"{s.kind}, dimension {s.dim}, labels {s.labelled}" for s in (total, shape))
            raise ValueError(
                f"expected rows like the first ones ({before}), found others ({found}) at row {total.rows}"
            )
        total = shape._replace(rows=shape.rows + (total.rows if total else 0))
    if not total:
        raise ValueError(f"expected rows to write to {url}, found none")
    return total
