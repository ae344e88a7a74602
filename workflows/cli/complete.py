"""Names that the shell completes: methods, datasets, tables and versions. A failure completes nothing."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import typer


def methods(incomplete: str) -> list[str]:
    """Return the names of methods: those of this package are the names of its files, whose import takes a second."""
    from importlib.metadata import entry_points

    files = (Path(__file__).parents[2] / "hashing" / "methods").glob("[!_]*.py")
    return _starting([*(file.stem for file in files), *entry_points(group="hashkiln.methods").names], incomplete)


def datasets(incomplete: str) -> list[str]:
    """Return the names of the catalogue and of the ingested datasets."""
    from infra.settings import Settings
    from storage.datasets.catalogue import DATASETS
    from storage.features.dataset import dataset_names

    ingested: list[str] = []
    with suppress(Exception):
        ingested = dataset_names(Settings().warehouse_url)
    return _starting([*DATASETS, *ingested], incomplete)


def tables(incomplete: str) -> list[str]:
    """Return the names of the code tables."""
    from infra.settings import Settings
    from storage.tables.quick import names_of_tables

    with suppress(Exception):
        return _starting(names_of_tables(Settings().catalog_url, Settings().warehouse_url), incomplete)
    return []


def versions(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of the versions of the table that the command line names before."""
    from infra.settings import Settings
    from storage.tables.quick import names_of_versions

    with suppress(Exception):
        table = ctx.params["table"] or ctx.args[0]  # not parsed yet, if the last word is an option without its value
        return _starting(names_of_versions(Settings().catalog_url, Settings().warehouse_url, table), incomplete)
    return []


def _starting(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the names that complete the last item of a list separated by commas."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in sorted(set(names)) if name.startswith(last)]
