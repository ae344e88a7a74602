"""Open a code table for searching."""

from collections.abc import Callable
from functools import partial
from typing import Literal, overload

from hashing.neighbours.multi_index import MultiIndex, index_codes
from infra.executors import InProcess, Progress, connect, silent
from infra.settings import Settings
from storage import models
from storage.tables.parts import CodeShard
from storage.tables.resident import ResidentRows

from .context import open_table, open_version
from .following import Follower
from .indexing import open_index
from .reader import Reader


@overload
def open(
    table: str,
    version: str = "main",
    settings: Settings | None = None,
    progress: Progress = silent,
    *,
    resident: bool = True,
    index: bool | Literal["stored"] = False,
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
    index: bool | Literal["stored"] = False,
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
    index: bool | Literal["stored"] = False,
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
    index : bool or "stored", default False
        Search by a multi-index, which is faster where the nearest rows are near; see docs/serving.md. Results are the
        same. True builds it in memory, 4 bytes for each row and piece; a word of 64 bits has 3 or 4 pieces. "stored"
        maps the index files of the parts, and writes those that `reindex --index` did not; it needs no rows in memory.
    follow : bool, default False
        Move to each new version once it is published; requires version "main", and rows in memory or a stored index.
    seconds : float, default 10
        Interval at which `follow` looks for a new version.

    Returns
    -------
    Reader
        Or a `Follower`, if `follow` is set.

    Raises
    ------
    ValueError
        If `follow` is combined with another version, or `follow` or index=True with resident=False; or if
        `index` is set for a table of a quantizer, whose estimates have no index.
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
    if index not in (False, True, "stored"):
        raise ValueError(f"index: expected True, False or 'stored', found {index!r}")
    if follow and (version != "main" or not (resident or index == "stored")):
        raise ValueError("follow: expected version='main', and resident=True or index='stored'")
    if index is True and not resident:
        raise ValueError("index: expected resident=True, or index='stored'")
    opening = partial(_open, table, settings or Settings(), progress, resident, index)
    reader = opening(version)
    return Follower(reader, partial(_newer, opening=opening), seconds) if follow else reader


def _open(
    table: str, settings: Settings, progress: Progress, resident: bool, index: bool | Literal["stored"], version: str
) -> Reader:
    opened, found = open_version(settings, table, version)
    if index and opened.correctives:
        raise ValueError(
            f"index: the rows of {opened.name} are ranked by estimates, which have no index: leave out index"
        )
    function = models.load_model(settings.warehouse_url, found.properties["model"])
    shards = [  # without labels
        CodeShard(shard.part, shard.n_bits, correctives=opened.correctives)
        for shard in opened.shards(found.snapshot_id)
    ]
    executor = InProcess(progress) if resident or index else connect(settings, progress)
    rows = ResidentRows(shards) if resident else None
    batch, multi_index = rows.batch if rows else None, None
    if index == "stored":
        multi_index = open_index(shards, executor, batch)
    elif index and batch and len(batch.ids):
        multi_index = MultiIndex([index_codes(batch.ids, batch.x)], batch.x.shape[1], batch)
    return Reader(opened.name, found, opened.vocabulary, function, shards, executor, settings, rows, multi_index)


def _newer(current: Reader, opening: Callable[[str], Reader]) -> Reader | None:
    """Return the published version if it is not the current one, with its vectors if that has them."""
    if open_table(current.settings, current.table).version().snapshot_id == current.version.snapshot_id:
        return None
    reader = opening("main")
    if reader.resident and current.resident and current.resident.vectors:
        vectors = reader.resident.cache_vectors(reader.dataset, current.resident)
        if current.resident.vectors.complete:
            vectors.read_all()
    return reader
