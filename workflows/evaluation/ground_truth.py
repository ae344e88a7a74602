"""Exact nearest rows of fixed queries, cached and updated from the shards that changed."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from hashing.mapreduce import Array, Data, Executor, Metric
from hashing.neighbours.candidates import STATE_BYTES
from hashing.neighbours.exact import ENTRY_BYTES, NearestNeighbours
from storage.features.shard import FeatureShard
from storage.files import npz
from storage.tables.parts import Part, read_ids

from .incremental import DAMAGE

SPARE = 1000  # largest number of neighbours cached beyond the k used (at most k more), as rows may be removed later
T = TypeVar("T")
Key = tuple[str, str]  # name and version of a shard


class Lists(NamedTuple):
    """The nearest rows of each query, (q, m) sorted by (distance, id) and padded with id -1 at distance inf.

    The lists are complete up to (reach, last): the distance and id of a row that may have been removed since.
    """

    ids: Array
    distances: Array
    reach: Array  # (q,) distance up to which the lists are complete; inf: the lists hold every row
    last: Array  # (q,) id of the row at that distance


def nearest(
    x: Array,
    own_rows: Array,
    k: int,
    shards: Sequence[FeatureShard],
    published: Mapping[str, Part],
    deleted: Array,
    executor: Executor,
    cache_url: str,
    metric: Metric = "euclidean",
    device: str | None = None,
) -> tuple[Array, Array]:
    """Return (ids, distances) (q, k) of the rows nearest to x (q, d), and cache longer lists at a URL.

    Cached lists are updated from the shards that changed. The ids of removed shards come from the published parts,
    keyed by shard name. The ids of `deleted` rows are removed too: a file that was away when they were deleted still
    has its version. All shards are read if a removed shard has no such part, if the part is damaged, or if too many
    neighbours were removed.
    """

    def find(shards: Sequence[FeatureShard], k: int) -> tuple[Array, Array]:
        return exact_neighbours(x, own_rows, k, Data(shards, executor), metric, device)

    named = {(shard.name, shard.version): shard for shard in shards}
    return updated(find, k, named, partial(_ids, published=published, deleted=deleted), cache_url)


def updated(
    find: Callable[[Sequence[T], int], tuple[Array, Array]],
    k: int,
    shards: Mapping[Key, T],
    ids_of: Callable[[Sequence[Key]], Array | None],
    cache_url: str,
) -> tuple[Array, Array]:
    """Return (ids, distances) (q, k) of the nearest rows, from lists cached at a URL and from the shards that changed.

    Parameters
    ----------
    find
        A function that returns ids and distances (q, k) of the k nearest rows of shards, sorted by (distance, id) and
        padded with id -1 at distance inf.
    ids_of
        A function that returns the ids of removed shards, and others that must not be listed; None if they cannot be
        read: then all shards are.
    """
    m = k + min(k, SPARE)
    found = npz.read_arrays(cache_url)
    lists = None
    if found:
        before = {(name, version) for name, version in found["shards"].tolist()}
        if (removed := ids_of(sorted(before - shards.keys()))) is not None:
            lists = _without(Lists(*(found[field] for field in Lists._fields)), removed)
            if added := [shard for key, shard in shards.items() if key not in before]:
                lists = _with(lists, *find(added, m))
            lists = lists if _enough(lists, k) else None
    if lists is None:
        ids, distances = find(list(shards.values()), m)
        lists = Lists(ids, distances, distances[:, -1], ids[:, -1])
    npz.write_arrays(cache_url, shards=np.array(list(shards)), **lists._asdict())
    return lists.ids[:, :k], lists.distances[:, :k]


def query_slices(queries: int, size: int) -> list[slice]:
    """Return slices of queries whose states, of `size` bytes per query, take at most 64 MiB each."""
    step = max(1, STATE_BYTES // size)
    return [slice(start, min(start + step, queries)) for start in range(0, queries, step)]


def exact_neighbours(
    x: Array, own_rows: Array, k: int, data: Data, metric: Metric = "euclidean", device: str | None = None
) -> tuple[Array, Array]:
    """Return (ids, distances) (q, k) of the rows nearest to x (q, d), computed in blocks of queries."""
    parts = [NearestNeighbours(x[i], own_rows[i], k, metric, device) for i in query_slices(len(x), ENTRY_BYTES * k)]
    ids, distances = zip(*(data.reduce(part, "exact neighbours") for part in parts), strict=True)
    return np.concatenate(ids), np.concatenate(distances)


def _ids(removed: Sequence[Key], published: Mapping[str, Part], deleted: Array) -> Array | None:
    """Return the ids of removed shards and of deleted rows; None if the part of a shard is missing or damaged."""
    if any(name not in published or published[name].version != version for name, version in removed):
        return None
    ids = ids_of_parts([published[name].url for name, _ in removed])
    return None if ids is None else np.concatenate([ids, deleted])


def ids_of_parts(urls: Iterable[str]) -> Array | None:
    """Return the ids (n,) of parts; None if one is missing or damaged."""
    try:
        return np.concatenate([np.zeros(0, np.int64), *map(read_ids, urls)])
    except DAMAGE:
        return None


def _without(lists: Lists, removed: Array) -> Lists:
    keep = ~np.isin(lists.ids, removed)
    return _sorted(lists, np.where(keep, lists.ids, -1), np.where(keep, lists.distances, np.inf))


def _with(lists: Lists, ids: Array, distances: Array) -> Lists:
    """Insert new rows, except those beyond the reach of the lists, where rows that are not listed may be nearer."""
    m = lists.ids.shape[1]
    ids, distances = np.hstack([lists.ids, ids]), np.hstack([lists.distances, distances])
    reach, last = lists.reach[:, None], lists.last[:, None]
    known = (distances < reach) | ((distances == reach) & (ids <= last))
    found = _sorted(lists, np.where(known, ids, -1), np.where(known, distances, np.inf))
    full = np.isfinite(found.distances[:, m - 1])  # only m new rows were searched for: more may follow
    return Lists(
        found.ids[:, :m],
        found.distances[:, :m],
        np.where(full, found.distances[:, m - 1], lists.reach),
        np.where(full, found.ids[:, m - 1], lists.last),
    )


def _sorted(lists: Lists, ids: Array, distances: Array) -> Lists:
    order = np.lexsort((ids, distances), axis=-1)
    ids, distances = (np.take_along_axis(part, order, axis=1) for part in (ids, distances))
    return Lists(ids, distances, lists.reach, lists.last)


def _enough(lists: Lists, k: int) -> bool:
    """Return whether the first k neighbours of every query are known, or fewer if a list holds every row."""
    return bool((np.isfinite(lists.distances[:, :k]).all(axis=1) | np.isinf(lists.reach)).all())
