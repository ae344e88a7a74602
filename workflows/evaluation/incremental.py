"""Counts cached in the warehouse, so that measuring a version reads only what has changed.

Counts are integers, so sums and differences are exact: the counts of the previous version, minus those of removed
parts, plus those of added parts, equal a new count of all parts. Cached files under `kept/` may be deleted at any time;
missing counts are computed again.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial

import numpy as np

from hashing.mapreduce import Array, Executor, Statistic, fold
from storage import warehouse as places
from storage.features.shard import FeatureShard
from storage.files import npz
from storage.tables.parts import Part

from ..spec import digest

Count = Callable[[tuple[Part, ...]], Array]
DAMAGE = (ValueError, FileNotFoundError)  # raised on reading a damaged or missing part


def counts(count: Count, identity: str, parts: Collection[Part], earlier: Collection[Part], warehouse: str) -> Array:
    """Return the counts of `parts`: from the cache, by difference from the cached counts of `earlier`, or in full.

    `identity` is a digest of everything else that the counts depend on.
    """
    found = npz.read_arrays(_url(warehouse, identity, parts))
    if found is not None:
        return found["counts"]
    before = npz.read_arrays(_url(warehouse, identity, earlier)) if earlier else None
    if before is None:
        result = count(by_first_id(parts))
    else:
        try:
            removed = count(by_first_id(set(earlier) - set(parts)))
        except DAMAGE:  # a full count does not read removed parts
            result = count(by_first_id(parts))
        else:
            result = before["counts"] + count(by_first_id(set(parts) - set(earlier))) - removed
    npz.write_arrays(_url(warehouse, identity, parts), counts=result)
    return result


def by_first_id(parts: Collection[Part]) -> tuple[Part, ...]:
    """Return the parts in ascending order of their smallest ids."""
    return tuple(sorted(parts, key=lambda part: (part.min_id, part.shard)))


def by_shard(
    statistic: Statistic[Array, object], url: str, shards: Sequence[FeatureShard], executor: Executor, label: str
) -> Array:
    """Return the sum over shards of a statistic with an integer state, and cache the state of each shard at a URL.

    States are cached by shard, because the old content of a changed shard can no longer be read and subtracted.
    """
    found = npz.read_arrays(url) or {"shards": np.zeros((0, 2), str), "counts": np.zeros((0, 0), np.int64)}
    known = dict(zip(map(tuple, found["shards"].tolist()), found["counts"], strict=True))
    new = [shard for shard in shards if (shard.name, shard.version) not in known]
    for shard, row in zip(new, executor.map(partial(fold, statistic), new, label), strict=True):
        known[shard.name, shard.version] = row
    names = [(shard.name, shard.version) for shard in shards]
    rows: Array = np.array([known[name] for name in names])
    if new or len(names) < len(known):
        npz.write_arrays(url, shards=np.array(names), counts=rows)
    return np.asarray(rows.sum(axis=0))


def url(warehouse: str, *identity: object) -> str:
    """Return the URL of a cached file, by everything its content depends on."""
    return places.CACHE.url(warehouse, digest=digest(*identity))


def _url(warehouse: str, identity: str, parts: Collection[Part]) -> str:
    return url(warehouse, identity, sorted(part.url.rsplit("/", 1)[-1] for part in parts))  # SHA-256 of their content
