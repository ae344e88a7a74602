"""Names of code tables and versions, for shell completion: those of an SQLite catalog without importing pyiceberg."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

SQLITE = "sqlite:///"
QUERY = "SELECT table_name, metadata_location FROM iceberg_tables WHERE table_namespace = 'codes' ORDER BY table_name"


def names_of_tables(catalog: str, warehouse: str) -> list[str]:
    """Return the names of all code tables, sorted. Creates no catalog."""
    if catalog.startswith(SQLITE):
        return list(_locations(catalog))
    from . import iceberg
    from .table import table_names

    return table_names(iceberg.open_catalog(catalog, warehouse))


def names_of_versions(catalog: str, warehouse: str, table: str) -> list[str]:
    """Return the names of the versions of a code table and of `main`; none if there is no such table."""
    place = _locations(catalog).get(table, "") if catalog.startswith(SQLITE) else ""
    if place and urlsplit(place).scheme in ("", "file"):
        return list(json.loads(Path(url2pathname(urlsplit(place).path)).read_bytes())["refs"])
    from . import iceberg
    from .table import load_table

    return [
        "main",
        *(version.name for version in load_table(iceberg.open_catalog(catalog, warehouse), table).versions()),
    ]


def _locations(catalog: str) -> dict[str, str]:
    """Return the location of the metadata of each table."""
    file = Path(catalog.removeprefix(SQLITE))
    if not file.exists():
        return {}
    with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as database:
        return dict(database.execute(QUERY))
