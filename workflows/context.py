"""The context of a run, shared by all of its stages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hashing.mapreduce import Executor
from infra.settings import Settings
from storage.features.dataset import Dataset
from storage.features.shard import FeatureShard
from storage.tables import iceberg
from storage.tables.table import CodeTable, Version, load_table, table_name, table_names, unknown_table

from .ingested import dataset_of
from .spec import Spec


@dataclass(frozen=True)
class Context:
    """A specification with its dataset, the settings, and the executor that processes shards."""

    spec: Spec
    settings: Settings
    executor: Executor
    dataset: Dataset
    _base: list[FeatureShard] = field(default_factory=list, repr=False, compare=False)  # empty until they are listed

    @classmethod
    def of(cls, spec: Spec, settings: Settings, executor: Executor) -> Context:
        """Return the context of an ingested dataset. Raises LookupError if the dataset was not ingested."""
        return cls(spec, settings, executor, dataset_of(spec, settings))

    @property
    def base(self) -> list[FeatureShard]:
        """The shards of the database, without vocabulary, as the run has listed them last."""
        return self._base or self.list_base()

    def list_base(self) -> list[FeatureShard]:
        """List the shards of the database, for this stage and for those that follow.

        What is computed from their batches is cached by their versions, so a file that changes meanwhile is refused.
        """
        self._base[:] = (replace(shard, refuse_changed=True) for shard in self.dataset.shards("base"))
        return self._base

    @property
    def warehouse(self) -> str:
        """URL of the warehouse."""
        return self.settings.warehouse_url

    @property
    def table_name(self) -> str:
        """Name of the code table."""
        return table_name(self.dataset.name, self.spec.code_name)

    def open_table(self) -> CodeTable:
        """Return the code table as it is now. Raises LookupError if it does not exist."""
        return open_table(self.settings, self.table_name)

    def known_table(self) -> CodeTable | None:
        """Return the code table as it is now, or None, without creating a table or catalog.

        Raises ValueError if the codes of the table have another number of bits or other correctives.
        """
        catalog = iceberg.open_existing_catalog(self.settings.catalog_url, self.settings.warehouse_url)
        if catalog is None or self.table_name not in table_names(catalog):
            return None
        return load_table(catalog, self.table_name, self.spec.method.bits, self.spec.method.correctives)


def open_table(settings: Settings, name: str) -> CodeTable:
    """Return a code table of the catalog. Raises LookupError if it does not exist, without creating a catalog."""
    catalog = iceberg.open_existing_catalog(settings.catalog_url, settings.warehouse_url)
    if catalog is None:
        raise unknown_table(name, [])
    return load_table(catalog, name)


def open_tables(settings: Settings) -> list[CodeTable]:
    """Return all code tables, sorted by name; none if there is no catalog, which is not created."""
    catalog = iceberg.open_existing_catalog(settings.catalog_url, settings.warehouse_url)
    return [load_table(catalog, name) for name in table_names(catalog)] if catalog else []


def open_version(settings: Settings, table: str, name: str) -> tuple[CodeTable, Version]:
    """Return a code table and one of its versions. Raises LookupError if there is none or it has no rows."""
    opened = open_table(settings, table)
    version = opened.version(name)
    if not opened.parts(version.snapshot_id):
        raise LookupError(f"version {version.name} of {table} is empty: run reindex, or choose another version")
    return opened, version
