"""The straight line as plain functions of (spec, settings, executor, references): fit, stage, evaluate, gate, publish.

Each may be run again after any failure: what is done is found in the warehouse and in the table, and not done twice.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import time
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as installed
from itertools import pairwise

import numpy as np

from hashing.functions import HashFunction
from hashing.mapreduce import Data, Executor
from hashing.methods import METHODS
from infra.settings import Settings
from storage import codes, iceberg, keys, models, tables
from storage.codes import Part
from storage.features import Dataset, FeatureShard
from storage.tables import CodeTable, Version

from . import measure
from .ingest import dataset_of, labels_of, training_shards
from .references import Model, Report, Staged, Verdict
from .spec import Spec, digest

logger = logging.getLogger(__name__)
LIBRARIES = ("hashkiln", "numpy", "scipy", "torch", "pyarrow", "pyiceberg", "ray", "prefect")


class GateRejected(RuntimeError):
    """The gate said no. The version stays as rejected-…, where no reader looks."""


def fit(spec: Spec, settings: Settings, executor: Executor) -> Model:
    """The model of the specification: the published one if it is the same, an earlier fit's, or a new one."""
    dataset = dataset_of(spec, settings)
    identity = digest(spec.method.identity, dataset.name)
    if published := _published_model(spec, settings, identity):
        return published
    split = "learn" if "learn" in dataset.splits else "base"
    draws = split == "base" and "query" not in dataset.splits
    excluded = np.zeros(0, np.int64)
    if draws or dataset.columns.keyed:  # else a fit leaves no table behind
        table = _table(spec, settings, executor, dataset)
    if draws:
        excluded = measure.draw(spec, dataset, table.vocabulary, settings.warehouse_url, executor).ids
    vocabulary = labels_of(dataset, executor) if METHODS[spec.method.method].supervised else ()
    key = digest(identity, split, excluded.tolist(), _fingerprint(dataset.shards(split)), _environment())
    if known := models.recall(settings.warehouse_url, key):
        logger.info("model %.12s was fitted before, from the same rows", known)
        return Model(digest=known, fit=identity, seconds=0)
    start = time.monotonic()
    function = spec.method.build().fit(Data(training_shards(dataset, excluded, vocabulary), executor))
    name = models.save(settings.warehouse_url, function)
    models.remember(settings.warehouse_url, key, name)
    return Model(digest=name, fit=identity, seconds=time.monotonic() - start)


def _published_model(spec: Spec, settings: Settings, identity: str) -> Model | None:
    """The published model, unless a new one is asked for. Raises ValueError where it is another method's."""
    catalog = iceberg.connect(settings.catalog_url, settings.warehouse_url)
    name = tables.table_name(spec.dataset, spec.code_name)
    if spec.refit == "always" or name not in tables.names(catalog):
        return None
    published = tables.open_table(catalog, name).version()
    if "fit" not in published.properties:
        return None
    if published.properties["fit"] != identity:
        raise ValueError(
            f"expected table {name} to stay with its model, fitted as {published.properties['spec']}, found another "
            "method or other hyper-parameters: ask for --refit always, or use another --code"
        )
    return Model(digest=published.properties["model"], fit=identity, seconds=0)


def stage(spec: Spec, settings: Settings, executor: Executor, model: Model) -> Staged:
    """Encode the shards that the table lacks, and commit them to a branch as encoding goes on.

    The plan is a difference: the source's shards (name, version) less those on the branch, under one model. A rerun
    with the same plan finds the branch of the first, and so encodes only what is missing there.
    """
    start = time.monotonic()
    dataset = dataset_of(spec, settings)
    table = _table(spec, settings, executor, dataset)
    base = table.version()
    shards = {shard.name: shard for shard in dataset.shards("base", table.vocabulary)}
    source = _fingerprint(list(shards.values()))
    branch = f"staged-{digest(table.name, base.snapshot_id, model.digest, source)[:12]}"
    known = {
        "table": table.name, "branch": branch, "base": base.name, "base_snapshot": base.snapshot_id, "model": model,
        "source": source,
    }  # fmt: skip
    published = table.parts(base.snapshot_id)
    if base.properties.get("model") == model.digest and _is_current(published, shards):
        rows = sum(part.rows for part in published.values())
        same = {"unchanged": True, "report": base.properties.get("report", "")}
        return Staged(**known, **same, rows=rows, encoded=0, removed=0, seconds=time.monotonic() - start)
    rejected = branch.replace("staged-", "rejected-")  # the same plan, when the gate said no: it is encoded already
    table.stage(branch, table.version(rejected if table.has(rejected) else "main").snapshot_id)
    head = table.version(branch)
    present = table.parts(head.snapshot_id)
    same_model = head.properties.get("model") == model.digest
    kept = {n for n, part in present.items() if same_model and n in shards and part.version == shards[n].version}
    properties = {"model": model.digest, "fit": model.fit, "source": source, "spec": spec.model_dump_json()}
    table.replace(branch, [], present.keys() - kept, properties)
    missing = [shards[name] for name in sorted(shards.keys() - kept)]
    logger.info("%s: %d shards, %d to encode, %d leave", branch, len(shards), len(missing), len(present) - len(kept))
    encoded = _encode(settings, executor, table, branch, missing, model, properties)
    parts = table.parts(table.version(branch).snapshot_id)
    _refuse_shared_ids(list(parts.values()))
    return Staged(
        **known,
        rows=sum(part.rows for part in parts.values()),
        encoded=encoded,
        removed=len(present) - len(kept),
        seconds=time.monotonic() - start,
    )


def _encode(
    settings: Settings,
    executor: Executor,
    table: CodeTable,
    branch: str,
    missing: list[FeatureShard],
    model: Model,
    properties: dict[str, str],
) -> int:
    """Encode shards and commit them in groups. Rows encoded."""
    function = models.load(settings.warehouse_url, model.digest)
    encode = partial(codes.encode_shard, function=function, folder=table.data_folder)
    pending: list[Part] = []
    rows, last = 0, time.monotonic()
    try:
        for part in executor.map(encode, missing, "encode"):
            pending.append(part)
            rows += part.rows
            if len(pending) >= settings.commit_shards or time.monotonic() - last >= settings.commit_seconds:
                table.replace(branch, pending, set(), properties)
                pending, last = [], time.monotonic()
    finally:  # what is encoded stays encoded, also where a later shard is refused
        if pending:
            table.replace(branch, pending, set(), properties)
    return rows


def evaluate(spec: Spec, settings: Settings, executor: Executor, staged: Staged) -> Report:
    """Measure the staged version by itself, and beside the published one on the rows that both have."""
    dataset = dataset_of(spec, settings)
    table = open_table(settings, staged.table)
    base = table.version(staged.base) if staged.base != "v0" else None  # v0 has neither tag nor rows
    return report_on(spec, settings, executor, dataset, table, table.version(staged.branch), base)


def report_on(
    spec: Spec,
    settings: Settings,
    executor: Executor,
    dataset: Dataset,
    table: CodeTable,
    version: Version,
    base: Version | None,
) -> Report:
    """Measure any version, beside another one if it is given and not empty."""
    judge = measure.judge(spec, dataset, table.vocabulary, settings.warehouse_url, executor)
    seed = spec.method.seed
    published = (base, _function(settings, base)) if base else None
    new = (version, _function(settings, version))
    histogram, comparison = measure.compare(judge, table, new, published, executor, seed)
    return Report(
        protocol=judge.protocol,
        measured=measure.measured(histogram, seed),
        curves=measure.curves(histogram),
        comparison=comparison,
        health=measure.health(Data(table.shards(version.snapshot_id), executor), table.n_bits),
        overlap=measure.overlap(judge, dataset, executor),
    )


def gate(spec: Spec, settings: Settings, staged: Staged, report: Report) -> Verdict:
    """Full coverage, finite metrics, the floors, and no loss beyond the bootstrap interval."""
    dataset = dataset_of(spec, settings)
    table = open_table(settings, staged.table)
    parts = table.parts(table.version(staged.branch).snapshot_id)
    shards = {shard.name: shard for shard in dataset.shards("base")}
    reasons, notes = [], []
    if lacking := sorted(name for name in shards if name not in parts or parts[name].version != shards[name].version):
        reasons.append(f"coverage: {len(lacking)} of {len(shards)} source shards are not in it, such as {lacking[0]}")
    if strangers := sorted(parts.keys() - shards.keys()):
        reasons.append(f"coverage: {len(strangers)} parts are of no source shard, such as {strangers[0]}")
    found = report.measured.metrics
    reasons += [f"{name} is not finite" for name, estimate in found.items() if not math.isfinite(estimate.value)]
    for name, floor in spec.gate.floors.items():
        if name not in found:
            reasons.append(f"expected a floor of a metric among {', '.join(found)}, found {name!r}")
        elif not found[name].value >= floor:
            reasons.append(f"{name} {found[name].value:.4f} is under its floor of {floor:.4f}")
    if report.comparison:
        c, loss = report.comparison, -report.comparison.map_difference.value
        beside = f"map {c.map_difference} against {c.version} on the {c.rows:,} rows of both"
        noise = "inside" if c.map_difference.low <= 0 <= c.map_difference.high else "outside"
        notes.append(f"{beside}: {noise} the bootstrap interval of no difference")
        if c.map_difference.high < 0 and loss > spec.gate.max_loss:
            reasons.append(f"{beside} is a loss, and more than {spec.gate.max_loss:.4f}")
    else:
        notes.append("nothing published to compare with: only floors, coverage and finite metrics hold")
    if reasons and spec.gate.force:
        notes.append(f"published by force, for the reason: {spec.gate.force}")
    return Verdict(passed=not reasons or bool(spec.gate.force), reasons=tuple(reasons), notes=tuple(notes))


def publish(spec: Spec, settings: Settings, staged: Staged, report: Report, verdict: Verdict, page: str) -> str:
    """Move main to the staged version, if it passed and main is still what staging started from. Its name: v<N>.

    Raises GateRejected after keeping the version as rejected-…, PublishConflict where somebody else published.
    """
    table = open_table(settings, staged.table)
    properties = {
        "model": staged.model.digest,
        "fit": staged.model.fit,
        "source": staged.source,
        "spec": spec.model_dump_json(),
        "protocol": report.protocol,
        "metrics": json.dumps({name: estimate.value for name, estimate in report.measured.metrics.items()}),
        "verdict": verdict.model_dump_json(),
        "report": page,
        "rows": str(staged.rows),
        "by": os.environ.get("USER") or str(os.getuid()),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": json.dumps(_environment()),
    }
    table.replace(staged.branch, [], set(), properties)
    version = table.version(staged.branch)
    if not verdict.passed:
        rejected = table.reject(version)
        raise GateRejected(f"{staged.table}: {rejected.name} is not published: {'; '.join(verdict.reasons)}")
    return table.publish(version, staged.base_snapshot).name


def open_table(settings: Settings, name: str) -> CodeTable:
    """A code table of the catalog. Raises LookupError where there is none of that name."""
    return tables.open_table(iceberg.connect(settings.catalog_url, settings.warehouse_url), name)


def _table(spec: Spec, settings: Settings, executor: Executor, dataset: Dataset) -> CodeTable:
    """The code table of the specification, made if need be; keys and labels of all shards have their places then."""
    catalog = iceberg.connect(settings.catalog_url, settings.warehouse_url)
    table = tables.create_table(catalog, tables.table_name(dataset.name, spec.code_name), spec.method.bits)
    parts = table.parts(table.version().snapshot_id)
    shards = [s for s in dataset.shards("base") if s.name not in parts or parts[s.name].version != s.version]
    shards += [shard for split in dataset.splits.keys() - {"base"} for shard in dataset.shards(split)]
    if dataset.columns.keyed:
        for found in executor.map(FeatureShard.row_keys, shards, "keys"):
            keys.assign(dataset.keys, found)
    if dataset.columns.labels:
        table.add_labels(labels_of(dataset, executor, shards))
    return table


def _function(settings: Settings, version: Version) -> HashFunction:
    return models.load(settings.warehouse_url, version.properties["model"])


def _is_current(parts: dict[str, Part], shards: dict[str, FeatureShard]) -> bool:
    return {n: part.version for n, part in parts.items()} == {n: shard.version for n, shard in shards.items()}


def _fingerprint(shards: list[FeatureShard]) -> str:
    return digest(sorted((shard.name, shard.version) for shard in shards))


def _refuse_shared_ids(parts: list[Part]) -> None:
    """No id in two parts. Only parts whose ranges of ids overlap are read."""
    ordered = sorted(parts, key=lambda part: part.min_id)
    reach = np.maximum.accumulate([part.max_id for part in ordered])
    cuts = [i + 1 for i, (_, after) in enumerate(pairwise(ordered)) if after.min_id > reach[i]]
    for first, last in pairwise([0, *cuts, len(ordered)]):
        if last - first > 1:
            ids, counts = np.unique(
                np.concatenate([codes.read_ids(part.url) for part in ordered[first:last]]), return_counts=True
            )
            if (twice := ids[counts > 1]).size:
                names = ", ".join(part.shard for part in ordered[first:last][:4])
                raise ValueError(f"expected unique ids, found {twice.size} in two shards ({twice[0]}, …), of {names}")


def _environment() -> dict[str, str]:
    """What bits may depend on beside the specification: the CPU's kind and the versions of the libraries."""
    return {"machine": platform.machine(), **{library: installed(library) for library in LIBRARIES}}
