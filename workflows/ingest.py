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
from infra.settings import Settings
from storage import datasets, features, filesystem
from storage.features import Columns, Dataset, FeatureShard, Without
from storage.formats import Rows, hdf5, vecs

from .spec import Spec, check_name

logger = logging.getLogger(__name__)
VECTOR_FILES = (".fvecs", ".bvecs")


def dataset_of(spec: Spec, settings: Settings) -> Dataset:
    """The dataset of a specification. Raises LookupError where it was not ingested."""
    return _shipped() if spec.dataset == "sample" else features.load(settings.warehouse_url, spec.dataset)


def training_shards(dataset: Dataset, excluded: Array, vocabulary: tuple[str | int, ...] = ()) -> list[Shard]:
    """The rows to learn from: the learn split, or else the database without the rows of some ids, its queries'."""
    if "learn" in dataset.splits:
        return list(dataset.shards("learn", vocabulary))
    shards = dataset.shards("base", vocabulary)
    return [Without(shard, excluded) for shard in shards] if len(excluded) else list(shards)


def labels_of(dataset: Dataset, executor: Executor, shards: list[FeatureShard] | None = None) -> tuple[str | int, ...]:
    """The distinct labels of some shards, or of all splits, in order."""
    if not dataset.columns.labels:
        return ()
    if shards is None:
        shards = [shard for split in dataset.splits for shard in dataset.shards(split)]
    labels: set[str | int] = set().union(*executor.map(FeatureShard.labels, shards, "labels"))
    return tuple(sorted(labels, key=lambda label: (isinstance(label, str), label)))


def ingest(spec: Spec, settings: Settings, progress: Progress = silent) -> Dataset:
    """The dataset of a specification, brought in if it is a named one that is not there yet."""
    if spec.dataset == "sample" or known(spec.dataset, settings):
        return dataset_of(spec, settings)
    return ingest_named(spec.dataset, settings, spec.source, progress)


def known(name: str, settings: Settings) -> bool:
    """Whether a dataset of that name was ingested."""
    return features.known(settings.warehouse_url, name)


def ingest_named(name: str, settings: Settings, source: str | None = None, progress: Progress = silent) -> Dataset:
    """Fetch or find a named dataset's files, and write its splits as shards."""
    if name == "sample":
        return _shipped()
    named = datasets.get(name)
    files = fetch(name, settings, source, progress)
    splits = {split: datasets.rows(named, split, files) for split in named.splits}
    return _write(settings, name, splits, f"{named.about} ({named.licence})", progress)


def fetch(name: str, settings: Settings, source: str | None = None, progress: Progress = silent) -> dict[str, Path]:
    """The files of a named dataset, where they are, or downloaded."""
    named = datasets.get(name)
    files = datasets.locate_or_fetch(
        named, settings.data_folder, source, lambda done, total: progress(f"fetch {name}", done, total or 0)
    )
    for path, what in datasets.provenance(named, files).items():
        logger.info("%s: %s", path, what)
    return files


def ingest_source(
    name: str, source: str, settings: Settings, columns: Columns, query: str | None = None, progress: Progress = silent
) -> Dataset:
    """A dataset of the user's own: Parquet in place, or .fvecs, .bvecs and HDF5 files, which are converted."""
    check_name(name)
    sources = {"base": source} | ({"query": query} if query else {})
    if _suffix(source) == ".hdf5":
        keys = {"base": "train", "query": "test"}
        blocks = {split: _numbered(split, hdf5.read(source, key)) for split, key in keys.items()}
        return _write(settings, name, blocks, source, progress)
    if _suffix(source) in VECTOR_FILES:
        blocks = {split: _numbered(split, vecs.read(path)) for split, path in sources.items()}
        return _write(settings, name, blocks, source, progress)
    splits = {split: filesystem.absolute(url) for split, url in sources.items()}
    kind, dim = features.describe(filesystem.listing(splits["base"], ".parquet")[0].url, columns)
    folder = filesystem.join(features.dataset_url(settings.warehouse_url, name), "keys") if columns.keyed else ""
    about = f"{source}, in place"
    dataset = Dataset(name=name, kind=kind, dim=dim, splits=splits, columns=columns, keys=folder, source=about)
    features.save(settings.warehouse_url, dataset)
    return dataset


def _shipped() -> Dataset:
    root = filesystem.absolute(str(datasets.SAMPLE))
    about = datasets.get("sample")
    splits = {split: filesystem.join(root, split) for split in ("base", "learn", "query")}
    return Dataset(name="sample", dim=about.splits["base"].d, splits=splits, source=about.about)


def _write(
    settings: Settings, name: str, splits: dict[str, Iterator[Rows]], source: str, progress: Progress
) -> Dataset:
    """Write each split as shards of a new folder, and last of all dataset.json, which makes the dataset known."""
    root = filesystem.join(features.dataset_url(settings.warehouse_url, name), uuid.uuid4().hex[:12])
    urls = {split: filesystem.join(root, split) for split in splits}
    found = {
        split: features.write_split(urls[split], _counted(rows, f"ingest {name}, {split}", progress))
        for split, rows in splits.items()
    }
    base = found["base"]
    columns = Columns(x=base.kind, labels="labels" if base.labelled else None)
    dataset = Dataset(name=name, kind=base.kind, dim=base.dim, splits=urls, columns=columns, source=source)
    features.save(settings.warehouse_url, dataset)
    return dataset


def _counted(blocks: Iterator[Rows], label: str, progress: Progress) -> Iterator[Rows]:
    done = 0
    for block in blocks:
        yield block
        done += len(block.ids)
        progress(label, done, 0)


def _numbered(split: str, blocks: Iterator[np.ndarray]) -> Iterator[Rows]:
    """Rows of a file without ids: base = position, queries from 2^41 on."""
    first = datasets.QUERY if split == "query" else 0
    for x in blocks:
        yield Rows(np.arange(first, first + len(x)), x, None)
        first += len(x)


def _suffix(source: str) -> str:
    return Path(source.removesuffix(".gz")).suffix
