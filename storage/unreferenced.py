"""What lies in a warehouse beside its tables, and nothing needs any more.

A version needs its model and the parameters that the model's network started from, a table the dataset that was drawn
for it, a dataset its current queries. Nothing needs counts, neighbours and checkpoints: they are made again when they
are wanted. What was used since a time stays, as whoever uses it makes it young (`filesystem.touch`); what belongs
together stays, or goes, together.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Set
from typing import Literal, NamedTuple

from . import queries
from .files import filesystem
from .files.filesystem import Stored, Upload

Kind = Literal["model", "pretrained", "dataset", "queries", "kept", "truth", "training", "file"]
FOLDERS = ("models", "pretrained", "datasets", "queries", "kept", "truth", "training", "reports", "benchmark")
FITS = re.compile(r"models/fits/[0-9a-f]{64}")
FILES: dict[Kind, re.Pattern[str]] = {  # the first group names what a file belongs to
    "file": re.compile(r"((?:.+/)?\.[^/]+\.[0-9a-f]{32})"),  # what filesystem.create began
    "model": re.compile(r"models/([0-9a-f]{64})/(?:function\.json|function\.safetensors|moments\.npz|training\.json)"),
    "pretrained": re.compile(r"pretrained/([0-9a-f]{64})"),
    "dataset": re.compile(r"datasets/([^/]+-dhn-[0-9a-f]{8})/(?:dataset\.json|drawn/.+\.parquet)"),
    "queries": re.compile(r"queries/([^/]+/[0-9a-f]{64}\.parquet)"),
    "kept": re.compile(r"kept/([0-9a-f]{64})\.npz"),
    "truth": re.compile(r"truth/([0-9a-f]{64})\.parquet"),
    "training": re.compile(r"training/([0-9a-f]{16})/.+"),
}
WHY: dict[Kind, str] = {
    "file": "begun and never ended",
    "model": "nothing names it",
    "pretrained": "nothing names it",
    "dataset": "was drawn for a benchmark, and not used within the grace",
    "queries": "others were drawn",
    "kept": "not used within the grace",
    "truth": "not used within the grace",
    "training": "no run went on with it within the grace",
}


class Unreferenced(NamedTuple):
    """Files that belong together, in the order in which they go: what leads to the others comes first."""

    kind: Kind
    files: tuple[Stored, ...]


def find_unreferenced(
    warehouse: str, named: Set[str] | None, tables: Collection[str], limit: float
) -> Iterator[Unreferenced]:
    """What nothing needs, and nobody wrote or used since a time.

    `named` are the digests that versions of the tables name; None: there may be others, and what they may need stays.
    """

    def needed(kind: Kind, name: str) -> bool:
        match kind:
            case "model" | "pretrained":
                return named is None or name in named
            case "dataset":
                of_it = f"{name}__".replace("-", "_")
                return named is None or any(table.startswith(of_it) for table in tables)
            case "queries":
                dataset = name.partition("/")[0]
                return queries.current(warehouse, dataset) == filesystem.join(warehouse, "queries", name)
        return False

    for (kind, name), files in _groups(warehouse).items():
        if all(file.modified < limit for file in files) and not needed(kind, name):
            yield Unreferenced(kind, tuple(files))


def uploads(warehouse: str, limit: float) -> list[Upload]:
    """The multipart uploads beside the tables that were begun before a time and never ended."""
    roots = (filesystem.join(warehouse, folder) for folder in FOLDERS)
    return [upload for root in roots for upload in filesystem.uploads(root) if upload.begun < limit]


def strangers(warehouse: str, tables: Iterable[str]) -> list[str]:
    """Folders among those of code tables that are of no table of this catalog."""
    root = filesystem.join(warehouse, "codes")
    found = {filesystem.below(root, file.url).partition("/")[0] for file in filesystem.inventory(root)}
    return sorted(found - set(tables))


def _groups(warehouse: str) -> dict[tuple[Kind, str], list[Stored]]:
    """The files that may go, by what they belong to. What remembers a model comes before its files."""
    groups: dict[tuple[Kind, str], list[Stored]] = {}
    for file in (file for folder in FOLDERS for file in filesystem.inventory(filesystem.join(warehouse, folder))):
        name = filesystem.below(warehouse, file.url)
        if FITS.fullmatch(name):
            groups.setdefault(("model", filesystem.read_bytes(file.url).decode()), []).insert(0, file)
        for kind, pattern in FILES.items():
            if found := pattern.fullmatch(name):
                groups.setdefault((kind, found[1]), []).append(file)
                break
    return groups
