"""Find unreferenced files of a warehouse outside its tables.

A version references its model and the pretrained parameters from which the model started; a table references the
dataset that was sampled for it, and a dataset its current query set, its encoder and its vectors. Nothing references
caches (counts, neighbours) and checkpoints, as they can be computed again. Recently used files are kept: each use
updates their modification time (`filesystem.touch`). Files that belong together are kept or deleted together.
"""

from collections.abc import Collection, Iterable, Iterator, Set
from functools import cache
from typing import Literal, NamedTuple

from . import queries
from . import warehouse as places
from .features.dataset import dataset_names, load_dataset
from .files import filesystem
from .files.filesystem import StoredFile
from .files.uploads import Upload, incomplete_uploads

Kind = Literal[
    "model", "pretrained", "encoder", "vectors", "dataset", "queries", "cache", "ground truth", "training", "file"
]
PLACES: dict[Kind, tuple[places.Place, ...]] = {  # the first field of a place groups the files that belong together
    "model": (places.MODEL_HEADER, places.MODEL_TENSORS, places.MODEL_EPOCHS, places.MODEL_MOMENTS),
    "pretrained": (places.PRETRAINED,),
    "encoder": (places.ENCODER, places.ENCODER_FILE),
    "vectors": (places.PIECE,),
    "dataset": (places.SUBSET, places.SUBSET_SHARD),
    "queries": (places.QUERIES,),
    "cache": (places.CACHE,),
    "ground truth": (places.GROUND_TRUTH,),
    "training": (places.CHECKPOINT,),
}
WHY: dict[Kind, str] = {
    "file": "incomplete: its writer was interrupted",
    "model": "no version references it",
    "pretrained": "no version references it",
    "encoder": "no dataset was embedded by it",
    "vectors": "embedded from other rows, or by another encoder",
    "dataset": "sampled for a benchmark or a plan, and not used within the grace period",
    "queries": "replaced by another query set",
    "cache": "cache, not used within the grace period",
    "ground truth": "cache, not used within the grace period",
    "training": "checkpoint, not resumed within the grace period",
}


class Unreferenced(NamedTuple):
    """Unreferenced files that belong together, in the order of deletion: a file that refers to others comes first."""

    kind: Kind
    files: tuple[StoredFile, ...]


def find_unreferenced(
    warehouse: str, referenced: Set[str] | None, tables: Collection[str], limit: float
) -> Iterator[Unreferenced]:
    """Yield the unreferenced files that were neither written nor used since `limit`.

    `tables` are the names of all code tables, and `referenced` the digests that their versions reference
    (`garbage.referenced_digests`); None if tables of another catalog may reference more: models, pretrained parameters
    and datasets are then kept. The limit is in seconds since the epoch.
    """

    @cache
    def embeddings() -> tuple[set[str], set[str]]:
        """Return the digests of the encoders, and the paths of the vectors, of all datasets."""
        datasets = [load_dataset(warehouse, name) for name in dataset_names(warehouse)]
        how = {dataset.name: dataset.embedding for dataset in datasets if dataset.embedding}
        stems = (
            (name, stem) for name, one in how.items() for listed in one.pieces.values() for stem in listed.values()
        )
        paths = {places.PIECE.template.format(dataset=name, piece=stem) for name, stem in stems}
        return {one.digest for one in how.values()}, paths

    def needed(kind: Kind, name: str) -> bool:
        match kind:
            case "model" | "pretrained":
                return referenced is None or name in referenced
            case "dataset":
                prefix = f"{name}__".replace("-", "_")
                return referenced is None or any(table.startswith(prefix) for table in tables)
            case "encoder":
                return name in embeddings()[0]
            case "vectors":
                return name in embeddings()[1]
            case "queries":
                match = places.QUERIES.pattern.fullmatch(name)
                current = queries.current_queries(warehouse, match["dataset"]) if match else None
                return current == filesystem.join(warehouse, name)
        return False

    for (kind, name), files in _groups(warehouse).items():
        if all(file.modified < limit for file in files) and not needed(kind, name):
            yield Unreferenced(kind, tuple(files))


def unreferenced_uploads(warehouse: str, limit: float) -> list[Upload]:
    """Return the incomplete multipart uploads outside the tables that started before `limit`."""
    roots = (filesystem.join(warehouse, folder) for folder in places.FOLDERS)
    return [upload for root in roots for upload in incomplete_uploads(root, limit)]


def unknown_tables(warehouse: str, tables: Iterable[str]) -> list[str]:
    """Return the names of table folders in the warehouse that belong to none of the given tables.

    Folders without metadata are not tables, but hold parts of a first run that was killed.
    """
    root = places.TABLES.url(warehouse)
    paths = (filesystem.relative_path(root, file.url) for file in filesystem.inventory(root))
    folders = {folder for folder, _, path in (path.partition("/") for path in paths) if path.startswith("metadata/")}
    return sorted(folders - set(tables))


def _groups(warehouse: str) -> dict[tuple[Kind, str], list[StoredFile]]:
    """Return the collectable files by (kind, name of the group). Recorded fits of a model come before its files."""
    groups: dict[tuple[Kind, str], list[StoredFile]] = {}
    roots = (filesystem.join(warehouse, folder) for folder in places.FOLDERS)
    for file in (file for root in roots for file in filesystem.inventory(root)):
        path = filesystem.relative_path(warehouse, file.url)
        if places.TEMPORARY.fullmatch(path):
            groups[("file", path)] = [file]
        elif places.FIT.pattern.fullmatch(path):
            groups.setdefault(("model", filesystem.read_bytes(file.url).decode()), []).insert(0, file)
        else:
            places_of = ((kind, place) for kind, owned in PLACES.items() for place in owned)
            for kind, place in places_of:
                if match := place.pattern.fullmatch(path):
                    found = groups.setdefault((kind, path if kind in ("queries", "vectors") else match[1]), [])
                    found.insert(0 if place is places.ENCODER else len(found), file)  # it says that the rest is there
                    break
    return groups
