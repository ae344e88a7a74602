"""Open a code table for searching."""

from __future__ import annotations

from functools import partial
from typing import Literal, overload

from hashing.hamming.multi_index import MultiIndex
from infra.executors import InProcess, Progress, connect, silent
from infra.settings import Settings
from storage import models
from storage.tables.parts import CodeShard
from storage.tables.resident import ResidentRows

from .context import open_table, open_version
from .following import Follower
from .reader import Reader


@overload
def open(
    table: str,
    version: str = "main",
    settings: Settings | None = None,
    progress: Progress = silent,
    *,
    resident: bool = True,
    index: bool = False,
    follow: Literal[False] = False,
    seconds: float = 10,
) -> Reader: ...


@overload
def open(
    table: str,
    version: str = "main",
    settings: Settings | None = None,
    progress: Progress = silent,
    *,
    resident: bool = True,
    index: bool = False,
    follow: Literal[True],
    seconds: float = 10,
) -> Follower: ...


def open(
    table: str,
    version: str = "main",
    settings: Settings | None = None,
    progress: Progress = silent,
    *,
    resident: bool = True,
    index: bool = False,
    follow: bool = False,
    seconds: float = 10,
) -> Reader | Follower:
    """Open a version of a code table for searching. Later publications do not affect it, unless `follow` is set.

    Parameters
    ----------
    table : str
        Name of the table, such as products__itq64.
    version : str, default "main"
        main (the published version), v3, staged-… or rejected-….
    settings : Settings, optional
        Catalog and warehouse; by default from the environment.
    progress : callable, optional
        Called with a label, the number of finished tasks and their total during a search.
    resident : bool, default True
        Read all codes and ids into memory, 8 bytes a row and the code, and search in this process, on the thread that
        calls. If False, each search reads the parts, on the executor of the settings.
    index : bool, default False
        Build a multi-index of the codes in memory: 4 bytes for each row and piece; a word of 64 bits has 3 or 4
        pieces. It makes searches faster where the nearest rows are near; see docs/serving.md. Results are the same.
    follow : bool, default False
        Move to each new version once it is published; requires version "main" and rows in memory.
    seconds : float, default 10
        Interval at which `follow` looks for a new version.

    Returns
    -------
    Reader
        Or a `Follower`, if `follow` is set.

    Raises
    ------
    ValueError
        If `follow` is combined with another version, or `follow` or `index` with resident=False.
    LookupError
        If there is no such table or version, or it is empty.

    Examples
    --------
    >>> import numpy as np
    >>> import hashkiln
    >>> table = hashkiln.open("sample__lsh8")  # as `hashkiln.reindex` published it
    >>> table.rows
    40000
    >>> distances, ids = table.search(np.zeros((2, table.function.dim)), k=5)
    >>> distances.shape, ids.dtype
    ((2, 5), dtype('int64'))
    """
    if follow and (version != "main" or not resident):
        raise ValueError("follow: expected version='main' and resident=True")
    if index and not resident:
        raise ValueError("index: expected resident=True")
    reader = _open(table, version, settings or Settings(), progress, resident, index)
    return Follower(reader, partial(_newer, progress=progress), seconds) if follow else reader


def _open(table: str, version: str, settings: Settings, progress: Progress, resident: bool, index: bool) -> Reader:
    opened, found = open_version(settings, table, version)
    shards = [CodeShard(shard.part, shard.n_bits) for shard in opened.shards(found.snapshot_id)]  # without labels
    function = models.load_model(settings.warehouse_url, found.properties["model"])
    executor = InProcess(progress) if resident else connect(settings, progress)
    rows = ResidentRows(shards) if resident else None
    tables = MultiIndex(rows.batch.x) if index and rows and len(rows.batch.ids) else None
    return Reader(opened.name, found, opened.vocabulary, function, shards, executor, settings, rows, tables)


def _newer(current: Reader, progress: Progress) -> Reader | None:
    """Return the published version if it is not the current one, with its vectors and its index, if that has them."""
    if open_table(current.settings, current.table).version().snapshot_id == current.version.snapshot_id:
        return None
    reader = _open(current.table, "main", current.settings, progress, resident=True, index=bool(current.index))
    if reader.resident and current.resident and current.resident.vectors:
        reader.resident.map_vectors(reader.dataset, current.resident)
    return reader
