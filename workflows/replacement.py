"""Write the description of a dataset, unless it replaces one whose rows tables or stored ids depend on."""

import math

from infra.settings import Settings
from storage import queries, warehouse
from storage.features import contract, deletions, media
from storage.features.dataset import Dataset, dataset_exists, load_dataset, save_dataset
from storage.tables import iceberg
from storage.tables.table import table_name, table_names

from .spec import digest


def save_or_replace(settings: Settings, dataset: Dataset) -> Dataset:
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
    catalog = iceberg.open_existing_catalog(settings.catalog_url, settings.warehouse_url)
    return [name for name in table_names(catalog) if name.startswith(table_name(dataset, ""))] if catalog else []
