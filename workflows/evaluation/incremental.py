"""Counts that are kept in the warehouse, so that measuring a version costs what changed in it.

Counts are integers: they add, and subtract, exactly. Those of a version are those of the version before, less those of
the parts that left and with those of the parts that came, to the last bit what counting all parts anew would give. The
files under `kept/` may be removed at any time: what is missing is counted again.
"""

from __future__ import annotations

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
DAMAGE = (ValueError, FileNotFoundError)  # what reading a part raises that is not as it was written


def counts(count: Count, identity: str, parts: Collection[Part], earlier: Collection[Part], warehouse: str) -> Array:
    """count of some parts, in which `identity` names all else that it depends on: kept, or by difference, or in full.

    The difference is taken from `earlier` parts, if their counts were kept.
    """
    found = npz.read_arrays(_url(warehouse, identity, parts))
    if found is not None:
        return found["counts"]
    before = npz.read_arrays(_url(warehouse, identity, earlier)) if earlier else None
    if before is None:
        result = count(ordered(parts))
    else:
        came, left = set(parts) - set(earlier), set(earlier) - set(parts)
        try:
            gone = count(ordered(left))
        except DAMAGE:  # which the parts themselves do without
            result = count(ordered(parts))
        else:
            result = before["counts"] + count(ordered(came)) - gone
    npz.write_arrays(_url(warehouse, identity, parts), counts=result)
    return result


def ordered(parts: Collection[Part]) -> tuple[Part, ...]:
    """By rising id."""
    return tuple(sorted(parts, key=lambda part: (part.min_id, part.shard)))


def by_shard(
    statistic: Statistic[Array, object],
    url: str,
    shards: Sequence[FeatureShard],
    executor: Executor,
    label: str,
) -> Array:
    """The few integers that a statistic has for state, of all shards together; those of each are kept at a URL.

    By shard, and not as one sum, because the old content of a shard that changed cannot be read any more.
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
    """Where something is kept, by all that it depends on."""
    return places.CACHE.url(warehouse, digest=digest(*identity))


def _url(warehouse: str, identity: str, parts: Collection[Part]) -> str:
    return url(warehouse, identity, sorted(part.url.rsplit("/", 1)[-1] for part in parts))  # SHA-256 of their content
