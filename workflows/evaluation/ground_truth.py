"""Exact nearest neighbours, kept as long as the queries stay: of a source only what changed since is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from hashing.mapreduce import Array, Data, Executor
from hashing.neighbours.candidates import STATE_BYTES
from hashing.neighbours.exact import ENTRY_BYTES, NearestNeighbours
from storage.features.shard import FeatureShard
from storage.files import npz
from storage.tables.parts import Part, read_ids

from .incremental import DAMAGE

SPARE = 1000  # as many neighbours are kept again as are asked for, but so many at most: some will leave


class Lists(NamedTuple):
    """The nearest rows of each query, (q, m) sorted by (distance, id) and filled up with -1 at distance inf.

    They are all the rows there are up to the last one, which may have left since, at (reach, last).
    """

    ids: Array
    distances: Array
    reach: Array  # (q,) distance of the last one; inf: the lists hold every row
    last: Array  # (q,) its id


def nearest(
    x: Array,
    own_rows: Array,
    k: int,
    shards: Sequence[FeatureShard],
    published: Mapping[str, Part],
    executor: Executor,
    kept: str,
) -> tuple[Array, Array]:
    """(ids, squared distances) (q, k) of the rows nearest to x (q, d), and what the next call needs, kept at a URL.

    Published parts, by shard, tell which ids have left with a shard. Where they do not, or are damaged, and where too
    many neighbours have left, all shards are read.
    """
    m = k + min(k, SPARE)
    now = [(shard.name, shard.version) for shard in shards]
    found = npz.read_arrays(kept)
    lists = None
    if found:
        before = {(name, version) for name, version in found["shards"].tolist()}
        if (gone := _ids(sorted(before - set(now)), published)) is not None:
            lists = _without(Lists(*(found[field] for field in Lists._fields)), gone)
            if came := [shard for shard in shards if (shard.name, shard.version) not in before]:
                lists = _with(lists, *exact_neighbours(x, own_rows, m, Data(came, executor)))
            lists = lists if _enough(lists, k) else None
    if lists is None:
        ids, distances = exact_neighbours(x, own_rows, m, Data(shards, executor))
        lists = Lists(ids, distances, distances[:, -1], ids[:, -1])
    npz.write_arrays(kept, shards=np.array(now), **lists._asdict())
    return lists.ids[:, :k], lists.distances[:, :k]


def blocks(queries: int, size: int) -> list[slice]:
    """Consecutive queries, of each of which a state holds so many bytes, in states of at most 64 MiB."""
    step = max(1, STATE_BYTES // size)
    return [slice(start, start + step) for start in range(0, queries, step)]


def exact_neighbours(x: Array, own_rows: Array, k: int, data: Data) -> tuple[Array, Array]:
    """(ids, squared distances) (q, k) of the rows nearest to x (q, d), by blocks of queries."""
    parts = [NearestNeighbours(x[i], own_rows[i], k) for i in blocks(len(x), ENTRY_BYTES * k)]
    ids, distances = zip(*(data.reduce(part, "exact neighbours") for part in parts), strict=True)
    return np.concatenate(ids), np.concatenate(distances)


def _ids(left: Sequence[tuple[str, str]], published: Mapping[str, Part]) -> Array | None:
    """The ids of shards that left, by name and version; None where no part, or a damaged one, tells them."""
    if any(name not in published or published[name].version != version for name, version in left):
        return None
    try:
        return np.concatenate([np.zeros(0, np.int64), *(read_ids(published[name].url) for name, _ in left)])
    except DAMAGE:
        return None


def _without(lists: Lists, gone: Array) -> Lists:
    stays = ~np.isin(lists.ids, gone)
    return _sorted(lists, np.where(stays, lists.ids, -1), np.where(stays, lists.distances, np.inf))


def _with(lists: Lists, ids: Array, distances: Array) -> Lists:
    """New rows take their places; those beyond the reach of the lists do not, as old ones may lie before them."""
    m = lists.ids.shape[1]
    ids, distances = np.hstack([lists.ids, ids]), np.hstack([lists.distances, distances])
    reach, last = lists.reach[:, None], lists.last[:, None]
    known = (distances < reach) | ((distances == reach) & (ids <= last))
    found = _sorted(lists, np.where(known, ids, -1), np.where(known, distances, np.inf))
    full = np.isfinite(found.distances[:, m - 1])  # of new rows only m were looked for: others may lie beyond the last
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
    """Whether the first k are known of every query. Where a list holds every row, fewer are all there are."""
    return bool((np.isfinite(lists.distances[:, :k]).all(axis=1) | np.isinf(lists.reach)).all())
