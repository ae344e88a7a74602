"""What lies in a warehouse beside its tables, and nothing needs any more.

A version needs its model and the parameters that the model's network started from, a table the dataset that was drawn
for it, a dataset its current queries. Nothing needs counts, neighbours and checkpoints: they are made again when they
are wanted. What was used since a time stays, as whoever uses it makes it young (`filesystem.touch`); what belongs
together stays, or goes, together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Set
from typing import Literal, NamedTuple

from . import queries
from . import warehouse as places
from .files import filesystem
from .files.filesystem import StoredFile, Upload

Kind = Literal["model", "pretrained", "dataset", "queries", "kept", "truth", "training", "file"]
PLACES: dict[Kind, tuple[places.Place, ...]] = {  # the first field of a place names what its files belong to
    "model": (places.MODEL_HEADER, places.MODEL_TENSORS, places.MODEL_EPOCHS, places.MODEL_MOMENTS),
    "pretrained": (places.PRETRAINED,),
    "dataset": (places.DRAWN_DATASET, places.DRAWN_SHARD),
    "queries": (places.QUERIES,),
    "kept": (places.CACHE,),
    "truth": (places.GROUND_TRUTH,),
    "training": (places.CHECKPOINT,),
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
    files: tuple[StoredFile, ...]


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
                found = places.QUERIES.pattern.fullmatch(name)
                current = queries.current(warehouse, found["dataset"]) if found else None
                return current == filesystem.join(warehouse, name)
        return False

    for (kind, name), files in _groups(warehouse).items():
        if all(file.modified < limit for file in files) and not needed(kind, name):
            yield Unreferenced(kind, tuple(files))


def uploads(warehouse: str, limit: float) -> list[Upload]:
    """The multipart uploads beside the tables that were begun before a time and never ended."""
    roots = (filesystem.join(warehouse, folder) for folder in places.BESIDE_TABLES)
    return [upload for root in roots for upload in filesystem.incomplete_uploads(root) if upload.started < limit]


def strangers(warehouse: str, tables: Iterable[str]) -> list[str]:
    """Folders of tables that this catalog does not know. A folder without metadata never was a table's.

    It holds what the first run of a table had encoded when it was killed.
    """
    root = places.TABLES.url(warehouse)
    paths = (filesystem.relative_path(root, file.url) for file in filesystem.inventory(root))
    found = {folder for folder, _, path in (path.partition("/") for path in paths) if path.startswith("metadata/")}
    return sorted(found - set(tables))


def _groups(warehouse: str) -> dict[tuple[Kind, str], list[StoredFile]]:
    """The files that may go, by what they belong to. What remembers a model comes before its files."""
    groups: dict[tuple[Kind, str], list[StoredFile]] = {}
    roots = (filesystem.join(warehouse, folder) for folder in places.BESIDE_TABLES)
    for file in (file for root in roots for file in filesystem.inventory(root)):
        path = filesystem.relative_path(warehouse, file.url)
        if places.ATTEMPT.fullmatch(path):
            groups[("file", path)] = [file]
        elif places.FIT.pattern.fullmatch(path):
            groups.setdefault(("model", filesystem.read_bytes(file.url).decode()), []).insert(0, file)
        else:
            matches = ((kind, place.pattern.fullmatch(path)) for kind, found in PLACES.items() for place in found)
            for kind, match in matches:
                if match:
                    groups.setdefault((kind, path if kind == "queries" else match[1]), []).append(file)
    return groups
