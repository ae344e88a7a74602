"""Export of a version of a code table to the formats of other tools."""

from collections.abc import Mapping, Sequence
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import Any

from hashing.names import hint
from infra.settings import Settings
from storage.export import duckdb, faiss, lance, milvus, npy, opensearch, pgvector, qdrant
from storage.export.folder import atomic_folder, check_folder, description_of
from storage.export.optional import ExportRefused, check_package
from storage.export.rows import VersionRows

from .context import open_version
from .ingested import keys_of_version

LITTLE = "bit j is byte j div 8, position j mod 8 (little); padding is zero"
BIG = "bit j is byte j div 8, position 7 - j mod 8 (big); padding is zero"
TEXT = "bit j is character j"
TARGETS = {  # what writes the files, and the order of bits in them
    "npy": (npy.write, LITTLE),
    "faiss-flat": (faiss.write_flat, LITTLE),
    "faiss-ivf": (faiss.write_ivf, LITTLE),
    "faiss-hnsw": (faiss.write_hnsw, LITTLE),
    "pgvector": (pgvector.write, TEXT),
    "duckdb": (duckdb.write, BIG),
    "milvus": (milvus.write, LITTLE),
    "lance": (lance.write, LITTLE),
    "opensearch": (opensearch.write, BIG),
    "qdrant": (qdrant.write, "bit j is element j"),
}


FAISS = ("faiss", "faiss-cpu")
PACKAGES = {  # module and package that a target needs
    "faiss-flat": FAISS, "faiss-ivf": FAISS, "faiss-hnsw": FAISS, "lance": ("lance", "pylance"),
}  # fmt: skip


class ExportFailed(RuntimeError):
    """The export of a version failed. The version stays published."""


def export_version(table: str, to: str, folder: str, version: str = "main", replace: bool = False) -> dict[str, Any]:
    """Write a version to a folder for one of TARGETS, and return the content of export.json and the folder.

    The folder must be new or empty, unless it is to be replaced. Raises LookupError for an unknown target,
    ExportRefused if the target cannot take the version, and as `open_version` does.
    """
    _check_target(to)
    write, bit_order = TARGETS[to]
    settings = Settings()
    code_table, chosen = open_version(settings, table, version)
    _check_target(to, code_table.correctives)
    shards, keys = code_table.shards(chosen.snapshot_id), keys_of_version(chosen.properties, settings)
    shards = [replace_fields(shard, correctives=code_table.correctives) for shard in shards]
    rows = VersionRows(code_table.name, shards, code_table.vocabulary, keys)
    description = {
        "table": code_table.name,
        "version": chosen.name,
        "snapshot": chosen.snapshot_id,
        "model": chosen.properties["model"],
        "target": to,
        "rows": len(rows),
        "n_bits": code_table.n_bits,
        "bit_order": bit_order,
        "vocabulary": code_table.vocabulary,  # label of each column of labels.npy
        "correctives": code_table.correctives,  # name of each column of correctives.npy
    }
    with atomic_folder(folder, description, replace) as place:
        write(rows, place)
    return {**description, "folder": folder}


def check_exports(exports: Mapping[str, str], table: str, settings: Settings, correctives: Sequence[str] = ()) -> None:
    """Raise an error for exports of a table (target -> folder) that cannot succeed. Writes nothing.

    An empty folder stands for exports/TABLE/TARGET in HASHKILN_HOME. Raises LookupError for an unknown target;
    ValueError if a folder holds anything but an earlier export of the table to this target, cannot be written, or is
    given for two targets; if a package that a target needs is missing; or if the target cannot rank by correctives.
    """
    folders = [_folder(exports, to, table, settings) for to in exports]
    if len(set(folders)) < len(folders):
        raise ValueError(f"expected another folder for each target, found {', '.join(map(str, folders))}")
    for to, folder in zip(exports, folders, strict=True):
        _check_target(to, correctives)
        _check_folder(folder, table, to)


def export_published(exports: Mapping[str, str], table: str, version: str) -> tuple[str, ...]:
    """Write a published version to the folder of each target, in place of an earlier one, and return what was written.

    A folder that already holds this version is left as it is. Raises ExportFailed, which says how to repeat the export.
    """
    written, settings = [], Settings()
    snapshot = open_version(settings, table, version)[1].snapshot_id
    for to in exports:
        folder = _folder(exports, to, table, settings)
        found = description_of(folder)
        if (found.get("table"), found.get("target"), found.get("snapshot")) == (table, to, snapshot):
            continue
        try:
            _check_folder(folder, table, to)
            export_version(table, to, str(folder), version, replace=True)
        except Exception as error:
            raise ExportFailed(
                f"{table} {version} is published, but the export to {to} in {folder} failed: {error}. Run the same "
                "command again to repeat the export"
            ) from error
        written.append(str(folder))
    return tuple(written)


def _check_target(to: str, correctives: Sequence[str] = ()) -> None:
    if to not in TARGETS:
        raise LookupError(f"unknown target {to!r} of an export: {hint(to, list(TARGETS), 'expected one of')}")
    if to in PACKAGES:
        check_package(*PACKAGES[to])
    if correctives and to != "npy":
        raise ExportRefused(
            f"{to} would rank the rows of a quantizer by Hamming distance, without their correctives: export to npy"
        )


def _folder(exports: Mapping[str, str], to: str, table: str, settings: Settings) -> Path:
    """Return where a target is exported to. Raises ValueError for a URL."""
    if "://" in exports[to]:
        raise ValueError(f"expected a local folder to export to, found {exports[to]}")
    return Path(exports[to] or settings.home / "exports" / table / to).expanduser().absolute()


def _check_folder(folder: Path, table: str, to: str) -> None:
    """Raise ValueError unless a folder is new, empty, or an export of the table to the same target."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            found = description_of(folder)
            if (found.get("table"), found.get("target")) != (table, to):
                raise ValueError(f"{folder} is not an export of {table} to {to}: choose a new folder")
        check_folder(str(folder), replace=True)
    except OSError as error:
        raise ValueError(str(error)) from None
