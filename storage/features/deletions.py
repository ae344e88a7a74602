"""Rows deleted by id, recorded in `datasets/<name>/deleted/<digest>.parquet`.

Deletion files are only ever added. Readers of the dataset skip the deleted rows, and the versions of the source files
that contain them change.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from hashing.mapreduce import Array

from ..files import filesystem, parquet


def add_deletion(folder: str, ids: Array, files: Mapping[str, Sequence[str]], by: str) -> str:
    """Record ids (m,) int64, sorted and distinct, as deleted, and return the URL of the deletion file.

    Parameters
    ----------
    folder
        The dataset's folder of deletion files (warehouse.DELETIONS).
    files
        Split -> names of the source files that contain rows with these ids.
    by
        The user who deletes them.
    """
    import pyarrow as pa

    metadata = {"hashkiln.files": json.dumps(files), "hashkiln.by": by}
    content = parquet.to_bytes(pa.table({"id": ids}).replace_schema_metadata(metadata))
    url = filesystem.join(folder, f"{hashlib.sha256(np.ascontiguousarray(ids).data).hexdigest()}.parquet")
    filesystem.create_exclusive(url, content)
    return url


def deletion_files(folder: str) -> tuple[str, ...]:
    """Return the URLs of the deletion files in a folder, sorted; none if the folder does not exist."""
    try:
        return tuple(entry.url for entry in filesystem.listing(folder, ".parquet"))
    except FileNotFoundError:
        return ()


def added(now: Sequence[str], before: Sequence[str]) -> tuple[str, ...]:
    """Return the deletion files that came since some were listed."""
    return tuple(sorted(set(now) - set(before)))


def names(urls: Iterable[str]) -> list[str]:
    """Return the names of deletion files, which are digests of the deleted ids."""
    return [url.rpartition("/")[2] for url in urls]


@lru_cache(maxsize=8)
def deleted_ids(urls: tuple[str, ...]) -> Array:
    """Return the ids (m,) int64 in deletion files, sorted and distinct."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(_read_deletion(url)[0] for url in urls)]))


def version_suffixes(urls: Iterable[str], split: str) -> dict[str, str]:
    """Return the suffix that deletions add to the version of each affected source file of a split, by file name."""
    digests: dict[str, str] = {}
    for url in sorted(urls):
        for name in _read_deletion(url)[1].get(split, ()):
            digests[name] = hashlib.sha256(f"{digests.get(name, '')}{url.rpartition('/')[2]}".encode()).hexdigest()
    return {name: f"~{digest[:12]}" for name, digest in digests.items()}


def without_suffix(version: str) -> str:
    """Return the version of a source file without its deletions. Equal results mean equal vectors.

    >>> without_suffix("1024-17000~0123456789ab")
    '1024-17000'
    """
    return version.partition("~")[0]


@lru_cache(maxsize=1024)
def _read_deletion(url: str) -> tuple[Array, dict[str, list[str]]]:
    """Return the ids of a deletion file, and its source files by split. Deletion files never change."""
    table = parquet.read_table(url)
    return table["id"].to_numpy(), json.loads(table.schema.metadata[b"hashkiln.files"])
