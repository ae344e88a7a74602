"""Ingest of datasets, and access to ingested ones: their labels and training rows.

Named datasets and most formats are converted to shards in the warehouse; Parquet is used in place.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

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
    """Return the dataset of a specification. Raises LookupError if it was not ingested."""
    dataset = _sample() if spec.dataset == "sample" else load_dataset(settings.warehouse_url, spec.dataset)
    deleted = deletions.deletion_files(deletions.deletions_folder(settings.warehouse_url, dataset.name))
    return dataset.model_copy(update={"bad_rows": spec.bad_rows, "deleted": deleted})


def training_shards(dataset: Dataset, excluded: Array, vocabulary: tuple[str | int, ...] = ()) -> list[Shard]:
    """Return the shards to learn from: the learn split or, without one, the base split without the excluded ids.

    The excluded ids (m,) int64 are those of the queries. With a vocabulary, shards yield labels as positions in it.
    """
    if "learn" in dataset.splits:
        return list(dataset.shards("learn", vocabulary))
    shards = dataset.shards("base", vocabulary)
    return [WithoutRows(shard, excluded) for shard in shards] if len(excluded) else list(shards)


def labels_of(dataset: Dataset, executor: Executor, shards: list[FeatureShard] | None = None) -> tuple[str | int, ...]:
    """Return the distinct labels of the given shards, or of all splits: integers, then strings, each sorted."""
    if not dataset.columns.labels:
        return ()
    if shards is None:
        shards = [shard for split in dataset.splits for shard in dataset.shards(split)]
    labels: set[str | int] = set().union(*executor.map(FeatureShard.distinct_labels, shards, "labels"))
    return tuple(sorted(labels, key=lambda label: (isinstance(label, str), label)))


def ingest(spec: Spec, settings: Settings, progress: Progress = silent) -> Dataset:
    """Return the dataset of a specification, after ingest if it is a named dataset that was not ingested before."""
    if is_available(spec.dataset, settings):
        return dataset_of(spec, settings)
    return ingest_named(spec.dataset, settings, spec.source, progress)


def is_available(name: str, settings: Settings) -> bool:
    """Return whether a dataset can be read: it was ingested, or is the sample, which needs no ingest."""
    return name == "sample" or dataset_exists(settings.warehouse_url, name)


def ingest_named(
    name: str, settings: Settings, source: str | None = None, progress: Progress = silent, side: int | None = None
) -> Dataset:
    """Find or download the files of a named dataset, and write its splits as shards.

    Parameters
    ----------
    source
        A local folder with the files, or the URL of a mirror.
    side
        Side in pixels to which pictures are resized when they are read. Default 64.
    """
    if name == "sample":
        return _sample()
    named = datasets.get(name)
    files = fetch_files(name, settings, source, progress)
    splits = {split: datasets.read_split(named, split, files) for split in named.splits}
    about = f"{named.about} ({named.licence})"
    return _write_dataset(settings, name, splits, about, progress, side, queries_in_base=named.format == "lists")


def fetch_files(
    name: str, settings: Settings, source: str | None = None, progress: Progress = silent
) -> dict[str, Path]:
    """Return the paths of a named dataset's files by unpacked name; download missing ones and log their checksums."""
    named = datasets.get(name)
    report = observed(progress)
    files = datasets.locate_or_fetch(
        named, settings.data_folder, source, lambda done, total: report(f"fetch {name}", done, total or 0)
    )
    for path, checksum in datasets.provenance(named, files).items():
        logger.info("%s: %s", path, checksum)
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
    """Ingest a dataset of the user. Parquet is used in place; .fvecs, .bvecs, HDF5 and lists of pictures are converted.

    Parameters
    ----------
    name
        Of the new dataset.
    source
        Path or URL of a file, or of a folder of Parquet files or of lists of pictures.
    columns
        Column names, for Parquet.
    query
        Path or URL of the queries, for Parquet, .fvecs and .bvecs.
    side
        Side in pixels to which pictures are resized when they are read. Default 64.

    Raises
    ------
    ValueError
        If the columns are not there or cannot be read, if the source contains the warehouse, or if `side` is given for
        rows other than pictures.
    """
    check_name(name)
    source, query = filesystem.absolute(source), filesystem.absolute(query) if query else None
    if lists := datasets.find_lists(source):
        splits = datasets.read_picture_lists(lists)
        return _write_dataset(settings, name, splits, source, progress, side, queries_in_base=True)
    sources = {"base": source} | ({"query": query} if query else {})
    if _suffix(source) == ".hdf5":
        keys = {"base": "train", "query": "test"}
        splits = {split: _number_split(split, hdf5.read_hdf5(source, key)) for split, key in keys.items()}
        return _write_dataset(settings, name, splits, source, progress)
    if _suffix(source) in VECTOR_FILES:
        splits = {split: _number_split(split, vecs.read_vecs(path)) for split, path in sources.items()}
        return _write_dataset(settings, name, splits, source, progress)
    for url in sources.values():
        if filesystem.listing_includes(url, settings.warehouse_url):
            raise ValueError(f"the source {url} contains the warehouse {settings.warehouse_url}: move one of them")
    kind, dim = kind_and_dim((file.url for file in filesystem.listing(source, ".parquet")), columns)
    folder = warehouse.DATASET_KEYS.url(settings.warehouse_url, dataset=name) if columns.keyed else ""
    about = f"{source}, in place"
    dim = _row_dim(kind, dim, side)
    dataset = Dataset(name=name, kind=kind, dim=dim, splits=sources, columns=columns, keys=folder, source=about)
    save_dataset(settings.warehouse_url, dataset)
    return dataset


def _sample() -> Dataset:
    """Return the shipped sample, which is used in place."""
    root = filesystem.absolute(str(datasets.SAMPLE))
    named = datasets.get("sample")
    splits = {split: filesystem.join(root, split) for split in named.splits}
    return Dataset(name="sample", dim=named.splits["base"].d, splits=splits, source=named.about)


def _write_dataset(
    settings: Settings,
    name: str,
    splits: dict[str, Iterator[FeatureRows]],
    source: str,
    progress: Progress,
    side: int | None = None,
    queries_in_base: bool = False,
) -> Dataset:
    """Write each split as shards to a new folder, and then dataset.json, which makes the dataset exist."""
    root = filesystem.join(dataset_url(settings.warehouse_url, name), uuid.uuid4().hex[:12])
    urls = {split: filesystem.join(root, split) for split in splits}
    shapes = {
        split: write_split(urls[split], _report_rows(rows, f"ingest {name}, {split}", progress))
        for split, rows in splits.items()
    }
    base = shapes["base"]
    columns = Columns(x=base.kind, labels="labels" if base.labelled else None)
    dim = _row_dim(base.kind, base.dim or media.dim(base.kind), side)
    dataset = Dataset(
        name=name, kind=base.kind, dim=dim, splits=urls, columns=columns, source=source, queries_in_base=queries_in_base
    )
    save_dataset(settings.warehouse_url, dataset)
    return dataset


def _row_dim(kind: str, dim: int, side: int | None) -> int:
    """Return the numbers in a row: dim, or for a given side those of a picture of that side."""
    if side is None:
        return dim
    if kind != "image":
        raise ValueError(f"--side applies only to pictures, found rows of kind {kind}: leave it out")
    return media.dim(kind, side)


def _report_rows(blocks: Iterator[FeatureRows], label: str, progress: Progress) -> Iterator[FeatureRows]:
    """Yield blocks, and report the number of rows so far."""
    done, report = 0, observed(progress)
    for block in blocks:
        yield block
        done += len(block.ids)
        report(label, done, 0)


def _number_split(split: str, blocks: Iterator[Array]) -> Iterator[FeatureRows]:
    """Number the rows of a file without ids: base rows from 0, queries from 2^41."""
    return datasets.number_rows(blocks, datasets.QUERY if split == "query" else 0)


def _suffix(source: str) -> str:
    """Return the suffix of a path or URL, of a .gz the one before it."""
    return Path(source.removesuffix(".gz")).suffix
