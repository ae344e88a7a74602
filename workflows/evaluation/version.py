"""Measure one version of a code table, alone or beside another."""

from __future__ import annotations

from hashing.mapreduce import Executor
from infra.settings import Settings
from storage import models
from storage.features.dataset import Dataset
from storage.tables.table import CodeTable, Version

from ..evaluation import by_id, metrics, query_overlap
from ..records import Report
from ..spec import Spec
from .comparison import Counter, compare_versions
from .judge import EMPTY, judge_of


def measure_version(
    spec: Spec,
    settings: Settings,
    executor: Executor,
    dataset: Dataset,
    table: CodeTable,
    version: Version,
    base: Version | None,
) -> Report:
    """Measure any version, beside another one if it is given and not empty."""
    before = table.parts(base.snapshot_id) if base else EMPTY
    judge = judge_of(spec, dataset, table.vocabulary, settings.warehouse_url, executor, published=before)
    seed = spec.method.seed
    counter = Counter(judge, table, settings.warehouse_url, executor)
    found = compare_versions(counter, version, base, seed)
    if spec.protocol.ties == "by-id":
        shards = map(counter.shard, table.parts(version.snapshot_id).values())
        ranked = judge.ranked(judge.codes(models.load_model(settings.warehouse_url, version.properties["model"])))
        measured, curves = by_id.measured_by_id(ranked, shards, found.histogram, seed)
    else:
        measured, curves = metrics.measured(found.histogram, seed), metrics.retrieval_curves(found.histogram)
    return Report(
        protocol=judge.protocol,
        measured=measured,
        curves=curves,
        comparison=found.comparison,
        incomparable=found.incomparable,
        health=found.health,
        overlap=query_overlap.overlap(judge, dataset, settings.warehouse_url, executor),
    )
