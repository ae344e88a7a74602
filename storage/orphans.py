"""What lies in a warehouse beside its tables, and nothing names any more: models, and query sets that were redrawn."""

from __future__ import annotations

import re
from collections.abc import Iterable, Set

from . import filesystem, queries
from .filesystem import Stored

MODEL = re.compile(r"([0-9a-f]{64})/function\.(json|safetensors)")
QUERIES = re.compile(r"([^/]+)/[0-9a-f]{64}\.parquet")


def models(warehouse: str, named: Set[str], limit: float) -> list[Stored]:
    """The files of models that no version names and no fit gave since a time, all written before it.

    What remembers a model comes before its files: whoever is told of a model finds it.
    """
    root = filesystem.join(warehouse, "models")
    files: dict[str, list[Stored]] = {}
    fits = []
    for file in filesystem.inventory(root):
        name = filesystem.below(root, file.url)
        if found := MODEL.fullmatch(name):
            files.setdefault(found[1], []).append(file)
        elif name.startswith("fits/"):
            fits.append((file, filesystem.read(file.url).decode()))
    young = {model for model, written in files.items() if any(file.modified >= limit for file in written)}
    young |= {model for file, model in fits if file.modified >= limit}
    orphans = files.keys() - named - young
    told = [file for file, model in fits if model in orphans]
    return told + [file for model in sorted(orphans) for file in files[model]]


def query_sets(warehouse: str, limit: float) -> list[Stored]:
    """The query sets that were drawn before a time, and of which another took the place."""
    root = filesystem.join(warehouse, "queries")
    found = [(file, QUERIES.fullmatch(filesystem.below(root, file.url))) for file in filesystem.inventory(root)]
    drawn = [(file, match[1]) for file, match in found if match and file.modified < limit]
    current = {dataset: queries.current(warehouse, dataset) for dataset in {dataset for _, dataset in drawn}}
    return [file for file, dataset in drawn if file.url != current[dataset]]


def strangers(warehouse: str, tables: Iterable[str]) -> list[str]:
    """Folders among those of code tables that are of no table of this catalog."""
    root = filesystem.join(warehouse, "codes")
    found = {filesystem.below(root, file.url).partition("/")[0] for file in filesystem.inventory(root)}
    return sorted(found - set(tables))
