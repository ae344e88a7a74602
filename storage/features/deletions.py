"""Rows deleted by id: `datasets/<name>/deleted/<digest>.parquet`, only ever added to. Whoever reads the dataset leaves
them out, and a shard has another version from then on."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from hashing.mapreduce import Array

from .. import warehouse as places
from ..files import filesystem

NONE = np.zeros(0, np.int64)


def add_deletion(folder: str, ids: Array, files: Mapping[str, Sequence[str]], by: str) -> str:
    """Note ids (sorted, distinct) as deleted, and the files of each split that have rows of theirs. The note's URL."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    about = {"hashkiln.files": json.dumps(files), "hashkiln.by": by}
    content = io.BytesIO()
    pq.write_table(pa.table({"id": ids}).replace_schema_metadata(about), content, compression="zstd")
    url = filesystem.join(folder, f"{hashlib.sha256(np.ascontiguousarray(ids).data).hexdigest()}.parquet")
    filesystem.create_exclusive(url, content.getvalue())
    return url


def folder_of(warehouse: str, dataset: str) -> str:
    return places.DELETIONS.url(warehouse, dataset=dataset)


def deletion_notes(folder: str) -> tuple[str, ...]:
    """The notes that there are, by name."""
    try:
        return tuple(entry.url for entry in filesystem.listing(folder, ".parquet"))
    except FileNotFoundError:
        return ()


@lru_cache(maxsize=8)
def deleted_ids(notes: tuple[str, ...]) -> Array:
    """All ids of some notes, sorted."""
    return np.unique(np.concatenate([NONE, *(_read(url)[0] for url in notes)]))


def marks(notes: Iterable[str], split: str) -> dict[str, str]:
    """What the version of a file of a split has at its end, where rows of it are deleted."""
    touching: dict[str, str] = {}
    for url in sorted(notes):
        for name in _read(url)[1].get(split, ()):
            touching[name] = hashlib.sha256(f"{touching.get(name, '')}{url.rpartition('/')[2]}".encode()).hexdigest()
    return {name: f"~{digest[:12]}" for name, digest in touching.items()}


def unmarked(version: str) -> str:
    """The version of a shard before any row of it was deleted: where it is the same, so are the vectors."""
    return version.partition("~")[0]


@lru_cache(maxsize=1024)
def _read(url: str) -> tuple[Array, dict[str, list[str]]]:
    """The ids of a note, and the files that had rows of theirs; neither ever changes."""
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(filesystem.read_bytes(url)))
    return table["id"].to_numpy(), json.loads(table.schema.metadata[b"hashkiln.files"])
