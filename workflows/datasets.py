"""Datasets come in: named ones from their files, other formats by conversion, Parquet used where it lies.

And what is asked of one that is there: its labels, and the rows to learn from.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hashing.mapreduce import Array, Executor, Shard
from infra.executors import Progress, silent
from infra.observability import observed
from infra.settings import Settings
from storage import datasets, warehouse
from storage.features import deletions, media
from storage.features.dataset import (
    Dataset,
    dataset_exists,
    dataset_url,
    kind_and_dim,
    load_dataset,
    save_dataset,
    write_split,
)
from storage.features.shard import Columns, FeatureShard, WithoutRows
from storage.files import filesystem
from storage.formats import FeatureRows, hdf5, vecs

from .spec import Spec, check_name

logger = logging.getLogger(__name__)
VECTOR_FILES = (".fvecs", ".bvecs")


def dataset_of(spec: Spec, settings: Settings) -> Dataset:
    """The dataset of a specification. Raises LookupError where it was not ingested."""
    dataset = _shipped() if spec.dataset == "sample" else load_dataset(settings.warehouse_url, spec.dataset)
    deleted = deletions.deletion_files(deletions.deletions_folder(settings.warehouse_url, dataset.name))
    return dataset.model_copy(update={"bad_rows": spec.bad_rows, "deleted": deleted})


def training_shards(dataset: Dataset, excluded: Array, vocabulary: tuple[str | int, ...] = ()) -> list[Shard]:
    """The rows to learn from: the learn split, or else the database without the rows of some ids, its queries'."""
    if "learn" in dataset.splits:
        return list(dataset.shards("learn", vocabulary))
    shards = dataset.shards("base", vocabulary)
    return [WithoutRows(shard, excluded) for shard in shards] if len(excluded) else list(shards)


def labels_of(dataset: Dataset, executor: Executor, shards: list[FeatureShard] | None = None) -> tuple[str | int, ...]:
    """The distinct labels of some shards, or of all splits, in order."""
    if not dataset.columns.labels:
        return ()
    if shards is None:
        shards = [shard for split in dataset.splits for shard in dataset.shards(split)]
    labels: set[str | int] = set().union(*executor.map(FeatureShard.distinct_labels, shards, "labels"))
    return tuple(sorted(labels, key=lambda label: (isinstance(label, str), label)))


def ingest(spec: Spec, settings: Settings, progress: Progress = silent) -> Dataset:
    """The dataset of a specification, brought in if it is a named one that is not there yet."""
    if spec.dataset == "sample" or known(spec.dataset, settings):
        return dataset_of(spec, settings)
    return ingest_named(spec.dataset, settings, spec.source, progress)


def known(name: str, settings: Settings) -> bool:
    """Whether a dataset of that name was ingested."""
    return dataset_exists(settings.warehouse_url, name)


def ingest_named(
    name: str, settings: Settings, source: str | None = None, progress: Progress = silent, side: int | None = None
) -> Dataset:
    """Fetch or find a named dataset's files, and write its splits as shards. side: pixels that pictures are read at."""
    if name == "sample":
        return _shipped()
    named = datasets.get(name)
    files = fetch(name, settings, source, progress)
    splits = {split: datasets.read_split(named, split, files) for split in named.splits}
    about = f"{named.about} ({named.licence})"
    return _write(settings, name, splits, about, progress, side, queries_in_base=named.format == "lists")


def fetch(name: str, settings: Settings, source: str | None = None, progress: Progress = silent) -> dict[str, Path]:
    """The files of a named dataset, where they are, or downloaded."""
    named = datasets.get(name)
    report = observed(progress)
    files = datasets.locate_or_fetch(
        named, settings.data_folder, source, lambda done, total: report(f"fetch {name}", done, total or 0)
    )
    for path, what in datasets.provenance(named, files).items():
        logger.info("%s: %s", path, what)
    return files


def ingest_source(
    name: str,
    source: str,
    settings: Settings,
    columns: Columns,
    query: str | None = None,
    progress: Progress = silent,
    side: int | None = None,
) -> Dataset:
    """A dataset of the user's own: Parquet in place; .fvecs, .bvecs, HDF5 and lists of pictures are converted."""
    check_name(name)
    source, query = filesystem.absolute(source), filesystem.absolute(query) if query else None
    if lists := datasets.find_lists(source):
        return _write(settings, name, datasets.read_picture_lists(lists), source, progress, side, queries_in_base=True)
    sources = {"base": source} | ({"query": query} if query else {})
    if _suffix(source) == ".hdf5":
        keys = {"base": "train", "query": "test"}
        blocks = {split: _numbered(split, hdf5.read_hdf5(source, key)) for split, key in keys.items()}
        return _write(settings, name, blocks, source, progress)
    if _suffix(source) in VECTOR_FILES:
        blocks = {split: _numbered(split, vecs.read_vecs(path)) for split, path in sources.items()}
        return _write(settings, name, blocks, source, progress)
    for url in sources.values():
        if filesystem.listing_includes(url, settings.warehouse_url):
            found = f"the warehouse {settings.warehouse_url} in {url}"
            raise ValueError(f"expected a source without our own outputs, found {found}")
    kind, dim = kind_and_dim((file.url for file in filesystem.listing(source, ".parquet")), columns)
    folder = warehouse.DATASET_KEYS.url(settings.warehouse_url, dataset=name) if columns.keyed else ""
    about = f"{source}, in place"
    dim = _dim(kind, dim, side)
    dataset = Dataset(name=name, kind=kind, dim=dim, splits=sources, columns=columns, keys=folder, source=about)
    save_dataset(settings.warehouse_url, dataset)
    return dataset


def _shipped() -> Dataset:
    root = filesystem.absolute(str(datasets.SAMPLE))
    about = datasets.get("sample")
    splits = {split: filesystem.join(root, split) for split in ("base", "learn", "query")}
    return Dataset(name="sample", dim=about.splits["base"].d, splits=splits, source=about.about)


def _write(
    settings: Settings,
    name: str,
    splits: dict[str, Iterator[FeatureRows]],
    source: str,
    progress: Progress,
    side: int | None = None,
    queries_in_base: bool = False,
) -> Dataset:
    """Write each split as shards of a new folder, and last of all dataset.json, which makes the dataset known."""
    root = filesystem.join(dataset_url(settings.warehouse_url, name), uuid.uuid4().hex[:12])
    urls = {split: filesystem.join(root, split) for split in splits}
    found = {
        split: write_split(urls[split], _counted(rows, f"ingest {name}, {split}", progress))
        for split, rows in splits.items()
    }
    base = found["base"]
    columns = Columns(x=base.kind, labels="labels" if base.labelled else None)
    dim = _dim(base.kind, base.dim or media.dim(base.kind), side)
    dataset = Dataset(
        name=name, kind=base.kind, dim=dim, splits=urls, columns=columns, source=source, queries_in_base=queries_in_base
    )
    save_dataset(settings.warehouse_url, dataset)
    return dataset


def _dim(kind: str, dim: int, side: int | None) -> int:
    if side is None:
        return dim
    if kind != "image":
        raise ValueError(f"expected --side for encoded pictures, found rows of kind {kind}")
    return media.dim(kind, side)


def _counted(blocks: Iterator[FeatureRows], label: str, progress: Progress) -> Iterator[FeatureRows]:
    done, report = 0, observed(progress)
    for block in blocks:
        yield block
        done += len(block.ids)
        report(label, done, 0)


def _numbered(split: str, blocks: Iterator[np.ndarray]) -> Iterator[FeatureRows]:
    """Rows of a file without ids: base = position, queries from 2^41 on."""
    first = datasets.QUERY if split == "query" else 0
    for x in blocks:
        yield FeatureRows(np.arange(first, first + len(x)), x, None)
        first += len(x)


def _suffix(source: str) -> str:
    return Path(source.removesuffix(".gz")).suffix
