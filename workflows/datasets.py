"""Ingest of datasets.

Named datasets and some formats are converted to shards in the warehouse; files with columns are used in place.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from hashing.names import check_choice
from infra.executors import Progress, silent
from infra.observability import observed
from infra.settings import Settings
from storage import datasets, warehouse
from storage.features import columns as conversion
from storage.features import contract, media
from storage.features.dataset import Dataset, dataset_url, write_split
from storage.features.rows import Columns
from storage.files import filesystem
from storage.formats import FeatureRows, Metric

from .ingested import dataset_of, is_available, sample_dataset
from .replacement import save_or_replace
from .spec import Spec, check_name

logger = logging.getLogger(__name__)
LabelsAs = Literal["values", "multi-hot"]


def ingest(spec: Spec, settings: Settings, progress: Progress = silent) -> Dataset:
    """Return the dataset of a specification, after ingest if it is a named dataset that was not ingested before."""
    if is_available(spec.dataset, settings):
        return dataset_of(spec, settings)
    return ingest_named(spec.dataset, settings, spec.source, progress)


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
        return sample_dataset()
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
        Path or URL of a file or folder; hf://datasets/OWNER/NAME on the Hugging Face hub is downloaded first.
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
        check_choice("metric", metric, (None, *get_args(Metric)))
        check_choice("labels_as", labels_as, (None, *get_args(LabelsAs)))
    source, query = _local(source, settings, progress), _local(query, settings, progress) if query else None
    with contract.refusing():
        if found := datasets.open_source(source, query, labels_as):
            if columns.keyed or columns.labels or columns.dtype:
                raise ValueError(
                    f"options that name columns are for files with columns, found {source}: leave them out"
                )
            found = _comparable(_compared_by(found, metric, source), source)
            _row_dim(found.kind, 0, side)
    if found:
        with contract.refusing():  # what only reading all rows can tell
            return _write_dataset(settings, name, found, source + found.note, progress, side)
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
    return save_or_replace(settings, dataset)


def _local(source: str, settings: Settings, progress: Progress) -> str:
    """Return an absolute path or URL; a dataset on the hub is downloaded to the data folder."""
    if not datasets.is_on_hub(source):
        return filesystem.absolute(source)
    report = observed(progress)
    with contract.refusing():
        return str(
            datasets.fetch_from_hub(
                source, settings.data_folder, lambda done, total: report(f"fetch {source}", done, total or 0)
            )
        )


def _compared_by(source: datasets.Source, metric: Metric | None, url: str) -> datasets.Source:
    """Return a source with its metric. Raises ValueError if the user asks for another than its files name."""
    if metric and source.metric and metric != source.metric:
        raise ValueError(f"--metric: {url} says {source.metric}, found {metric}: leave it out")
    if metric or source.metric or not source.likely_metric:
        return source._replace(metric=metric or source.metric)
    return source._replace(metric=source.likely_metric, note="; its neighbors are those by this metric")


def _comparable(source: datasets.Source, url: str) -> datasets.Source:
    """Return a source after checks of the first rows of its splits, before anything is written.

    Raises ValueError for a split without rows or with vectors of another dimension, and if all vectors compared by
    cosine are zero. Later rows are checked when they are read.
    """
    splits: dict[str, Iterator[FeatureRows]] = {}
    dims: dict[str, int] = {}
    for split, blocks in source.splits.items():
        if (first := next(blocks, None)) is None:
            raise ValueError(f"expected at least one row, found none in the {split} rows of {url}")
        splits[split] = _usable(chain([first], blocks), source.metric, f"the {split} rows of {url}")
        if isinstance(first.x, np.ndarray):
            dims[split] = first.x.shape[1]
            if source.metric == "cosine" and not first.x.any():
                raise ValueError(f"expected vectors other than zero, which has no cosine, found none in {url}")
    if len(set(dims.values())) > 1:
        found = " and ".join(f"{dim} in the {split} rows" for split, dim in dims.items())
        raise ValueError(f"expected vectors of one dimension, found {found} of {url}")
    return source._replace(splits=splits)


def _usable(blocks: Iterator[FeatureRows], metric: Metric | None, where: str) -> Iterator[FeatureRows]:
    """Yield blocks. Raises SourceRefused for the first row that is not finite as float32, or not 0 and 1 for hamming.

    Zeros compared by cosine are bad rows, which a run can drop.
    """
    row, checked = 0, "hamming" if metric == "hamming" else "euclidean"
    for block in blocks:
        if isinstance(block.x, np.ndarray):
            with np.errstate(over="ignore"):
                x = block.x.astype(np.float32, copy=False)
            with contract.refusing():
                if errors := conversion.usable_rows(x, x.shape[1], where, metric=checked)[1]:
                    conversion.refuse_row(errors, where, row)
        yield block
        row += len(block.ids)


def _write_dataset(
    settings: Settings, name: str, rows: datasets.Source, about: str, progress: Progress, side: int | None = None
) -> Dataset:
    """Write each split as shards to a new folder, and then dataset.json, which makes the dataset exist.

    After an error the folder is removed.
    """
    root = filesystem.join(dataset_url(settings.warehouse_url, name), uuid.uuid4().hex[:12])
    urls = {split: filesystem.join(root, split) for split in rows.splits}
    metric = rows.metric or "euclidean"
    try:
        shapes = {
            split: write_split(urls[split], _report_rows(blocks, f"ingest {name}, {split}", progress))
            for split, blocks in rows.splits.items()
        }
        base = shapes["base"]
        labels, key = "labels" if base.labelled else None, "key" if rows.keyed else "id"
        columns = Columns(x=base.kind, labels=labels, id=key, keyed=rows.keyed)
        understood = contract.understand(urls, columns, "values" if base.labelled else None, metric).splits
    except Exception:
        with suppress(OSError):  # another error says why
            filesystem.remove_folder(root)
        raise
    keys = warehouse.DATASET_KEYS.url(settings.warehouse_url, dataset=name) if rows.keyed else ""
    dataset = Dataset(
        name=name, kind=base.kind, metric=metric, dim=_row_dim(base.kind, base.dim or media.dim(base.kind), side),
        splits=urls, columns=columns, keys=keys, source=about, queries_in_base=rows.queries_in_base,
        understood=understood,
    )  # fmt: skip
    return save_or_replace(settings, dataset)


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
