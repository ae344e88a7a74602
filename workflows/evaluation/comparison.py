"""Measure one version, and compare it with another on their common rows."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

from hashing.evaluation.health import CodeHealth, Health, pack_counts, unpack_counts
from hashing.functions import HashFunction
from hashing.mapreduce import Array, Executor, Shard, fold
from storage import models
from storage.tables import integrity
from storage.tables.joined import joined
from storage.tables.parts import CodeShard, CommonRows, Part
from storage.tables.table import CodeTable, Version

from ..records import Comparison
from ..spec import digest
from . import incremental
from .judge import Judge
from .metrics import estimated, measured_metrics, metric_values


class Measurement(NamedTuple):
    """The histogram, comparison and code health of a version."""

    histogram: Array  # over all its rows, from Judge.histogram
    comparison: Comparison | None
    health: Health
    incomparable: str = ""  # why the versions cannot be compared; empty otherwise


@dataclass(frozen=True)
class Counter:
    """Counts histograms and code health over parts of one table."""

    judge: Judge
    table: CodeTable
    warehouse: str
    executor: Executor

    def shard(self, part: Part) -> CodeShard:
        return CodeShard(part, self.table.n_bits, self.judge.read_classes)

    def joined(self, parts: Iterable[Part]) -> list[Shard]:
        return joined(list(map(self.shard, parts)))

    def histograms(self, function: HashFunction) -> incremental.Count:
        return cache(lambda parts: self.judge.histogram(function, self.joined(parts), self.executor))

    def health(self, parts: Collection[Part], earlier: Collection[Part]) -> Health:
        statistic: Any = CodeHealth(self.table.n_bits)

        def count(parts: tuple[Part, ...]) -> Array:
            state = statistic.zero()
            if parts:
                state = self.executor.reduce(
                    partial(fold, statistic), statistic.merge, self.joined(parts), "code health"
                )
            return unpack_counts(state)

        found = incremental.counts(count, digest("health", self.table.n_bits), parts, earlier, self.warehouse)
        health: Health = statistic.finish(pack_counts(found))
        return health


class Side(NamedTuple):
    """One of the two versions to compare."""

    version: Version
    parts: dict[str, Part]
    function: HashFunction
    counted: incremental.Count


def compare_versions(counter: Counter, staged: Version, published: Version | None, seed: int) -> Measurement:
    """Measure the staged version over all its rows, and compare it with the published one on their common rows.

    All rows of a shard that is unchanged between the versions are common; in the other shards, rows with common ids
    are selected. If the counts of the published version are cached, only parts that one version lacks are read. The
    versions are not compared if a part that only the published version has is damaged.
    """

    new, old = _side(counter, staged), _side(counter, published) if published else None
    everything = _whole(counter, new, old)
    health = counter.health(new.parts.values(), old.parts.values() if old else ())
    if not old or not old.parts:
        return Measurement(everything, None, health)
    try:
        return Measurement(everything, _comparison(counter, new, old, everything, seed), health)
    except incremental.DAMAGE:
        removed = incremental.by_first_id(set(old.parts.values()) - set(new.parts.values()))
        problems = counter.executor.map(partial(integrity.check_part, n_bits=counter.table.n_bits), removed, "verify")
        if not (damaged := next(filter(None, problems), [])):
            raise
        return Measurement(everything, None, health, damaged[0])


def whole_histogram(counter: Counter, version: Version) -> Array:
    """Return the histogram over all parts of a version, from the cache if it was measured before."""
    return _whole(counter, _side(counter, version), None)


def _side(counter: Counter, version: Version) -> Side:
    function = models.load_model(counter.warehouse, version.properties["model"])
    return Side(version, counter.table.parts(version.snapshot_id), function, counter.histograms(function))


def _comparison(counter: Counter, new: Side, old: Side, whole: Array, seed: int) -> Comparison | None:
    """Compare both versions on their common rows; None if there are no common rows."""
    ours = _common(counter, new, old, whole)
    if not ours[0].any():
        return None
    theirs = _common(counter, old, new, _whole(counter, old, new))
    a, b = (metric_values(histogram, counter.judge.k) for histogram in (ours, theirs))
    return Comparison(
        version=old.version.name,
        rows=int(ours[0].sum(-1).max()),
        staged=measured_metrics(ours, seed, a),
        published=measured_metrics(theirs, seed, b),
        differences={name: estimated(a[name] - b[name], seed) for name in a},
    )


def _whole(counter: Counter, side: Side, other: Side | None) -> Array:
    """Return the histogram over all parts of a version."""
    model = side.version.properties["model"]
    earlier = other.parts.values() if other and other.version.properties["model"] == model else ()
    identity = digest("histogram", counter.judge.identity, model)
    return incremental.counts(side.counted, identity, side.parts.values(), earlier, counter.warehouse)


def _common(counter: Counter, side: Side, other: Side, whole: Array) -> Array:
    """Return the histogram over the rows of a version whose ids are also in the other version."""
    same = {n for n, part in side.parts.items() if n in other.parts and other.parts[n].version == part.version}
    changed = incremental.by_first_id([part for name, part in side.parts.items() if name not in same])
    rest = [part for name, part in other.parts.items() if name not in same]
    overlapping = [(p, tuple(o for o in rest if o.min_id <= p.max_id and p.min_id <= o.max_id)) for p in changed]
    picked = [CommonRows(counter.shard(part), others) for part, others in overlapping if others]
    return whole - side.counted(changed) + counter.judge.histogram(side.function, joined(picked), counter.executor)
