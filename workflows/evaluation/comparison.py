"""A version measured, and beside another one on the rows that both have."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

from hashing.evaluation.health import CodeHealth, pack_counts, unpack_counts
from hashing.functions import HashFunction
from hashing.mapreduce import Array, Executor, Shard, fold
from storage import models
from storage.tables import integrity
from storage.tables.parts import CodeShard, CommonRows, Part
from storage.tables.table import CodeTable, Version

from ..records import Comparison
from ..spec import digest
from . import incremental
from .health import in_words
from .judge import Judge
from .metrics import estimated, measured, metric_values


class Measurement(NamedTuple):
    """What a version was found to be."""

    histogram: Array  # of all its rows, as Judge.histogram gives it
    comparison: Comparison | None
    health: dict[str, float]
    incomparable: str = ""  # why there is no comparison, although there is another version


@dataclass(frozen=True)
class Counter:
    """Counts of parts of one table."""

    judge: Judge
    table: CodeTable
    warehouse: str
    executor: Executor

    def shard(self, part: Part) -> CodeShard:
        return CodeShard(part, self.table.n_bits, len(self.table.vocabulary))

    def histograms(self, function: HashFunction) -> incremental.Count:
        return cache(lambda parts: self.judge.histogram(function, list(map(self.shard, parts)), self.executor))

    def health(self, parts: Collection[Part], earlier: Collection[Part]) -> dict[str, float]:
        statistic: Any = CodeHealth(self.table.n_bits)

        def count(parts: tuple[Part, ...]) -> Array:
            state = statistic.zero()
            if parts:
                shards = list(map(self.shard, parts))
                state = self.executor.reduce(partial(fold, statistic), statistic.merge, shards, "code health")
            return unpack_counts(state)

        found = incremental.counts(count, digest("health", self.table.n_bits), parts, earlier, self.warehouse)
        return in_words(statistic.finish(pack_counts(found)))


class Side(NamedTuple):
    """One of two versions."""

    version: Version
    parts: dict[str, Part]
    function: HashFunction
    counted: incremental.Count


def compare_versions(counter: Counter, staged: Version, published: Version | None, seed: int) -> Measurement:
    """The staged version over all its rows, and beside the published one on the rows that both have.

    Shards that both versions hold unchanged are common as a whole; of the others the rows with common ids are picked.
    Only parts that one of the versions lacks are read, where the counts of the published one were kept. Where a part
    that only the published version has is damaged, there is no comparison.
    """

    def side(version: Version) -> Side:
        function = models.load_model(counter.warehouse, version.properties["model"])
        return Side(version, counter.table.parts(version.snapshot_id), function, counter.histograms(function))

    new, old = side(staged), side(published) if published else None
    everything = _whole(counter, new, old)
    health = counter.health(new.parts.values(), old.parts.values() if old else ())
    if not old or not old.parts:
        return Measurement(everything, None, health)
    try:
        return Measurement(everything, _comparison(counter, new, old, everything, seed), health)
    except incremental.DAMAGE:
        left = incremental.ordered(set(old.parts.values()) - set(new.parts.values()))
        problems = counter.executor.map(partial(integrity.check_part, n_bits=counter.table.n_bits), left, "verify")
        if not (damaged := next(filter(None, problems), [])):
            raise
        return Measurement(everything, None, health, damaged[0])


def _comparison(counter: Counter, new: Side, old: Side, whole: Array, seed: int) -> Comparison | None:
    """Both on the rows that both have; None where there are none."""
    ours = _common(counter, new, old, whole)
    if not ours[0].any():
        return None
    theirs = _common(counter, old, new, _whole(counter, old, new))
    a, b = metric_values(ours), metric_values(theirs)
    return Comparison(
        version=old.version.name,
        rows=int(ours[0].sum(-1).max()),
        staged=measured(ours, seed),
        published=measured(theirs, seed),
        differences={name: estimated(a[name] - b[name], seed) for name in a},
    )


def _whole(counter: Counter, side: Side, other: Side | None) -> Array:
    """The histogram of all parts of a version."""
    model = side.version.properties["model"]
    earlier = other.parts.values() if other and other.version.properties["model"] == model else ()
    identity = digest("histogram", counter.judge.identity, model)
    return incremental.counts(side.counted, identity, side.parts.values(), earlier, counter.warehouse)


def _common(counter: Counter, side: Side, other: Side, whole: Array) -> Array:
    """The histogram of those rows of a version whose ids the other one has too."""
    same = {n for n, part in side.parts.items() if n in other.parts and other.parts[n].version == part.version}
    changed = incremental.ordered([part for name, part in side.parts.items() if name not in same])
    rest = [part for name, part in other.parts.items() if name not in same]
    overlapping = [(p, tuple(o for o in rest if o.min_id <= p.max_id and p.min_id <= o.max_id)) for p in changed]
    picked: list[Shard] = [CommonRows(counter.shard(part), others) for part, others in overlapping if others]
    return whole - side.counted(changed) + counter.judge.histogram(side.function, picked, counter.executor)
