"""Ingest of datasets, and access to ingested ones: their labels and training rows.

Named datasets and some formats are converted to shards in the warehouse; files with columns are used in place.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from hashing.mapreduce import Array, Executor, Shard
from infra.executors import Progress, silent
from infra.observability import observed
from infra.settings import Settings
from storage import datasets, queries, warehouse
from storage.features import contract, deletions, keys, media
from storage.features.dataset import (
    Dataset,
    dataset_exists,
    dataset_url,
    load_dataset,
    save_dataset,
    write_split,
)
from storage.features.rows import Columns
from storage.features.shard import FeatureShard, WithoutRows
from storage.files import filesystem
from storage.formats import FeatureRows, Metric
from storage.tables import iceberg
from storage.tables.table import table_name, table_names

from .spec import Spec, check_name, digest

logger = logging.getLogger(__name__)
LabelsAs = Literal["values", "multi-hot"]


def dataset_of(spec: Spec, settings: Settings) -> Dataset:
    """Return the dataset of a specification. Raises LookupError if it was not ingested."""
    dataset = _sample() if spec.dataset == "sample" else load_dataset(settings.warehouse_url, spec.dataset)
    deleted = deletions.deletion_files(warehouse.DELETIONS.url(settings.warehouse_url, dataset=dataset.name))
    return dataset.model_copy(update={"bad_rows": spec.bad_rows, "deleted": deleted})


def training_shards(dataset: Dataset, excluded: Array, vocabulary: tuple[str | int, ...] = ()) -> list[Shard]:
    """Return the shards to learn from: the learn split or, without one, the base split without the excluded ids.

    The excluded ids (m,) int64 are those of the queries. With a vocabulary, shards yield labels as positions in it.
    """
    if "learn" in dataset.splits:
        return list(dataset.shards("learn", vocabulary))
    shards = dataset.shards("base", vocabulary)
    return [WithoutRows(shard, excluded) for shard in shards] if len(excluded) else list(shards)


def keys_of_version(properties: Mapping[str, str], settings: Settings) -> str:
    """Return the URL of the keys of a version's rows, from its properties; empty if there are none."""
    spec = Spec.stored(properties["spec"]) if "spec" in properties else None
    return dataset_of(spec, settings).keys if spec and is_available(spec.dataset, settings) else ""


def number_new(dataset: Dataset, ids: Array) -> Array:
    """Return the ids (n,) of queries, with new ids from 2^41 on for those whose key no row of the dataset has."""
    if not dataset.columns.keyed:
        return ids
    return np.where(ids == keys.NONE, datasets.QUERY + np.arange(len(ids)), ids)


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
    metric: Metric = "euclidean" if named.metric == "labels" else named.metric
    source_rows = datasets.Source(splits, metric, named.kind, queries_in_base=named.format == "lists")
    _row_dim(named.kind, 0, side)
    return _write_dataset(settings, name, source_rows, f"{named.about} ({named.licence})", progress, side)


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
    labels_as: LabelsAs | None = None,
    metric: Metric | None = None,
) -> Dataset:
    """Ingest a dataset of the user. Files of `rows.READERS` are used in place, others converted: see `datasets.FORMS`.

    Parameters
    ----------
    name
        Name of the new dataset.
    source
        Path or URL of a file or folder.
    columns
        Column names, for files that are used in place. An empty x stands for the column vector, image or text.
    query
        Path or URL of the queries, unless the source holds its own.
    side
        Side in pixels to which pictures are resized when they are read. Default 64.
    labels_as
        How to read labels that can be read in two ways.
    metric
        How vectors are compared; by default as the source says, and euclidean if it does not say.

    Raises
    ------
    ValueError
        If the source has no known form, if rows cannot be read or can be read in two ways, if the source contains the
        warehouse, if an option contradicts the source, or if `side` is given for rows other than pictures.
    """
    with contract.refusing():
        check_name(name)
    source, query = filesystem.absolute(source), filesystem.absolute(query) if query else None
    with contract.refusing():
        if found := datasets.open_source(source, query, labels_as):
            if columns.keyed or columns.labels or columns.dtype:
                raise ValueError(
                    f"options that name columns are for files with columns, found {source}: leave them out"
                )
            found = _comparable(_compared_by(found, metric, source), source)
            _row_dim(found.kind, 0, side)
    if found:
        return _write_dataset(settings, name, found, source, progress, side)
    with contract.refusing():
        for url in filter(None, (source, query)):
            if filesystem.listing_includes(url, settings.warehouse_url):
                raise ValueError(f"the source {url} contains the warehouse {settings.warehouse_url}: move one of them")
        sources, columns = datasets.find_splits(source, query, columns, datasets.FORMS)
        kind, dim, columns, understood = contract.understand(sources, columns, labels_as, metric or "euclidean")
        dim = _row_dim(kind, dim, side)
    folder = warehouse.DATASET_KEYS.url(settings.warehouse_url, dataset=name) if columns.keyed else ""
    dataset = Dataset(
        name=name, kind=kind, metric=metric or "euclidean", dim=dim, splits=sources,
        columns=columns, keys=folder, source=f"{source}, in place", understood=understood,
    )  # fmt: skip
    return save(settings, dataset)


def save(settings: Settings, dataset: Dataset) -> Dataset:
    """Write dataset.json and return the dataset. If it replaces one that was read in another way, its shards are new.

    Raises SourceRefused as `check_replacement` does.
    """
    url, name = settings.warehouse_url, dataset.name
    if dataset_exists(url, name):
        before = load_dataset(url, name)
        if changed := check_replacement(settings, dataset):
            queries.forget_queries(url, name)
        same = not changed and before.metric == dataset.metric
        how = digest(dataset.kind, dataset.dim, dataset.metric, dataset.columns.model_dump())
        dataset = dataset.model_copy(update={"reading": before.reading if same else how[:12]})
    save_dataset(url, dataset)
    return dataset


def check_replacement(settings: Settings, dataset: Dataset) -> list[str]:
    """Return in what a dataset differs from the existing one of its name that makes other rows of the same files.

    Raises SourceRefused if tables or stored ids depend on what was read before.
    """
    url, name = settings.warehouse_url, dataset.name
    if not dataset_exists(url, name):
        return []
    before = load_dataset(url, name)
    if changed := _changed_reading(before, dataset):
        holders = [f"table {table}" for table in _tables_of(name, settings)]
        if deletions.deletion_files(warehouse.DELETIONS.url(url, dataset=name)):
            holders.append("the list of deleted ids")
        if before.columns.keyed != dataset.columns.keyed:
            holders.append("the list of ids")
        if holders:
            raise contract.SourceRefused(
                f"dataset {name}: {'; '.join(changed)}; what was read before remains in {', '.join(holders)}: "
                "choose another name"
            )
    return changed


def _changed_reading(before: Dataset, now: Dataset) -> list[str]:
    """Return in what two datasets differ that makes other rows, or other labels, of the same files.

    More classes change no row: a greater width of multi-hot labels, and names after those of the known labels.
    """

    def reading(dataset: Dataset) -> list[str]:
        columns = dataset.columns
        ids = f"--{'key' if columns.keyed else 'id'}-column {columns.id}"
        side = f" of --side {math.isqrt(dataset.dim // media.CHANNELS)}" if dataset.kind == "image" else ""
        names = columns.label_names[: len(before.columns.label_names) or None]
        return [
            "rows by number" if columns.numbered else ids,
            f"--vector-column {columns.x}" + (f" of --vector-dtype {columns.dtype}" if columns.dtype else ""),
            dataset.kind + side,
            f"other columns in {columns.metadata}" if columns.metadata else "all columns in the same files",
            f"--label-column {columns.labels}" if columns.labels else "no labels",
            f"labels {'as multi-hot' if columns.multi_hot else 'as values'}",
            f"labels of folders as {columns.label_folders}" if columns.label_folders else "labels in files",
            f"labels named {', '.join(names)}" if names else "labels without names",
            _encoder(dataset),
        ]

    return [
        f"expected {old}, found {new}" for old, new in zip(reading(before), reading(now), strict=True) if old != new
    ]


def _encoder(dataset: Dataset) -> str:
    if not (how := dataset.embedding):
        return "no encoder"
    return f"{how.source} encoded by {how.encoder}, {how.digest[:12]}"


def _tables_of(dataset: str, settings: Settings) -> list[str]:
    """Return the names of the code tables of a dataset."""
    if not iceberg.catalog_exists(settings.catalog_url):
        return []
    names = table_names(iceberg.connect(settings.catalog_url, settings.warehouse_url))
    return [name for name in names if name.startswith(table_name(dataset, ""))]


def _compared_by(source: datasets.Source, metric: Metric | None, url: str) -> datasets.Source:
    """Return a source with its metric. Raises ValueError if the user asks for another than its files name."""
    if metric and source.metric and metric != source.metric:
        raise ValueError(f"--metric: {url} says {source.metric}, found {metric}: leave it out")
    return source._replace(metric=metric or source.metric)


def _sample() -> Dataset:
    """Return the shipped sample, which is used in place."""
    root = filesystem.absolute(str(datasets.SAMPLE))
    named = datasets.get("sample")
    splits = {split: filesystem.join(root, split) for split in named.splits}
    return Dataset(name="sample", dim=named.splits["base"].d, splits=splits, source=named.about)


def _comparable(source: datasets.Source, url: str) -> datasets.Source:
    """Return a source after checks of the first rows of its splits, before anything is written.

    Raises ValueError for a split without rows or with vectors of another dimension, and for vectors other than 0 and 1
    that are compared by Hamming distance.
    """
    splits: dict[str, Iterator[FeatureRows]] = {}
    dims: dict[str, int] = {}
    for split, blocks in source.splits.items():
        if (first := next(blocks, None)) is None:
            raise ValueError(f"expected at least one row, found none in the {split} rows of {url}")
        splits[split] = _finite(chain([first], blocks), f"the {split} rows of {url}")
        if isinstance(first.x, np.ndarray):
            dims[split] = first.x.shape[1]
            if source.metric == "hamming" and not np.isin(first.x, (0, 1)).all():
                raise ValueError(f"expected vectors of 0 and 1, compared by hamming, found others in {url}")
    if len(set(dims.values())) > 1:
        found = " and ".join(f"{dim} in the {split} rows" for split, dim in dims.items())
        raise ValueError(f"expected vectors of one dimension, found {found} of {url}")
    return source._replace(splits=splits)


def _finite(blocks: Iterator[FeatureRows], where: str) -> Iterator[FeatureRows]:
    """Yield blocks. Raises SourceRefused for the first row with a number that is not finite as float32."""
    row = 0
    for block in blocks:
        if isinstance(block.x, np.ndarray) and block.x.dtype.kind == "f":
            with np.errstate(over="ignore"):
                finite = np.isfinite(block.x.astype(np.float32, copy=False)).all(axis=1)
            if not finite.all():
                wrong = row + int(finite.argmin())
                raise contract.SourceRefused(
                    f"expected finite float32 numbers, found NaN, infinity or more, in row {wrong} of {where}"
                )
        yield block
        row += len(block.ids)


def _write_dataset(
    settings: Settings,
    name: str,
    rows: datasets.Source,
    about: str,
    progress: Progress,
    side: int | None = None,
) -> Dataset:
    """Write each split as shards to a new folder, and then dataset.json, which makes the dataset exist."""
    root = filesystem.join(dataset_url(settings.warehouse_url, name), uuid.uuid4().hex[:12])
    urls = {split: filesystem.join(root, split) for split in rows.splits}
    shapes = {
        split: write_split(urls[split], _report_rows(blocks, f"ingest {name}, {split}", progress))
        for split, blocks in rows.splits.items()
    }
    base = shapes["base"]
    columns = Columns(x=base.kind, labels="labels" if base.labelled else None)
    metric = rows.metric or "euclidean"
    understood = contract.understand(urls, columns, "values" if base.labelled else None, metric).splits
    dataset = Dataset(
        name=name, kind=base.kind, metric=metric, dim=_row_dim(base.kind, base.dim or media.dim(base.kind), side),
        splits=urls, columns=columns, source=about, queries_in_base=rows.queries_in_base, understood=understood,
    )  # fmt: skip
    return save(settings, dataset)


def _row_dim(kind: str, dim: int, side: int | None) -> int:
    """Return the dimension of a row: dim or, for a given side, that of a picture of that side."""
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
