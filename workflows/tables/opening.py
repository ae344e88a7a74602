"""Open code tables of the catalog."""

from __future__ import annotations

from infra.settings import Settings
from storage.tables import iceberg
from storage.tables.table import CodeTable, load_table, table_name, table_names

from ..spec import Spec


def open_table(settings: Settings, name: str) -> CodeTable:
    """A code table of the catalog. Raises LookupError where there is none of that name."""
    return load_table(iceberg.connect(settings.catalog_url, settings.warehouse_url), name)


def known_table(spec: Spec, settings: Settings) -> CodeTable | None:
    """The code table of the specification, if it was made. Nothing is made here, not even a catalog.

    Raises ValueError if it holds codes of another length.
    """
    if not iceberg.catalog_exists(settings.catalog_url):
        return None
    catalog = iceberg.connect(settings.catalog_url, settings.warehouse_url)
    name = table_name(spec.dataset, spec.code_name)
    return load_table(catalog, name, spec.method.bits) if name in table_names(catalog) else None
