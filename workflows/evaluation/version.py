"""Measure one version of a code table, and optionally compare it with another."""

from dataclasses import replace

from hashing.quantizers.contract import Quantizer
from storage import models
from storage.tables.table import CodeTable, Version

from ..context import Context
from ..records import Report
from . import asymmetric, by_id, estimates, query_overlap
from .comparison import Counter, compare_versions
from .health import bits_of, in_words
from .judge import EMPTY, judge_of
from .metrics import estimated


def measure_version(context: Context, table: CodeTable, version: Version, base: Version | None = None) -> Report:
    """Measure a version, and compare it with `base`, unless that is None or has no rows."""
    context = replace(context, executor=context.executor.with_resources(context.settings.evaluate))
    before = table.parts(base.snapshot_id) if base else EMPTY
    judge = judge_of(context, table.vocabulary, published=before)
    seed = context.spec.method.seed
    counter = Counter(judge, table, context.warehouse, context.executor)
    found = compare_versions(counter, version, base, seed)
    function = models.load_model(context.warehouse, version.properties["model"])
    shards = list(map(counter.shard, table.parts(version.snapshot_id).values()))
    ranked = judge.ranked(judge.codes(function)) if context.spec.protocol.ties == "by-id" else None
    measured, curves = by_id.metrics_and_curves(found.histogram, judge.k, seed, ranked, shards)
    values, protocol, real = {}, judge.protocol, context.spec.protocol.asymmetric
    relevant = found.histogram[1].sum(axis=-1)
    if isinstance(function, Quantizer):
        metric = context.dataset.distance
        whole = [replace(shard, correctives=table.correctives) for shard in shards]
        values = estimates.estimated_values(judge, function, metric, relevant, whole, context.executor, real)
        protocol += f"; {estimates.ranking_of(function, metric, real)}"
    elif real:
        values = asymmetric.asymmetric_values(judge, function, relevant, shards, context.executor)
    measured.metrics.update({name: estimated(found, seed) for name, found in values.items()})
    return Report(
        protocol=protocol,
        measured=measured,
        curves=curves,
        comparison=found.comparison,
        incomparable=found.incomparable,
        health=in_words(found.health),
        bits=bits_of(found.health),
        overlap=query_overlap.overlap(judge, context),
    )
