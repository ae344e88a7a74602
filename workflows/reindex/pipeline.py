"""The pipeline that flows and the command line run: ingest, fit, stage, evaluate, gate, report, publish.

Each stage is a function of the run's context and of the results of earlier stages. A stage can be repeated after any
failure: it finds completed work in the warehouse and in the table.
"""

import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from hashing.mapreduce import Executor
from infra import observability, telemetry
from infra.executors import Progress, silent
from infra.settings import Settings

from .. import datasets
from ..checks import check_run
from ..context import Context
from ..embed import refresh
from ..export import export_published
from ..indexing import store_missing
from ..ingested import dataset_of, is_available
from ..records import RunOutcome, Staged
from ..reports.index import write_index
from ..reports.run import write_report
from ..spec import Spec
from . import unchanged
from .fitting import fit, refit_reason
from .gate import evaluate_staged, gate
from .publishing import publish
from .staging import stage

T = TypeVar("T")


class Runner(Protocol):
    """How a stage runs: as a plain call, or as a task of an orchestrator that retries it."""

    def __call__(self, stage: Callable[..., T], /, *args: object) -> T: ...


def call(stage: Callable[..., T], /, *args: object) -> T:
    """Run a stage as a plain call."""
    return logged(stage, stage, *args)


def logged(stage: Callable[..., T], function: Callable[..., T], *args: object) -> T:
    """Return the result of a stage, which `function` runs; log its name, rows and seconds, record metrics and span."""
    with telemetry.recorded_stage(NAMES[stage]), observability.logged_stage(NAMES[stage]) as found:
        result = function(*args)
        found.rows = ROWS[stage](result) if stage in ROWS else 0
    return result


def recorded(run: Runner, times: dict[str, float]) -> Runner:
    """Return a runner that adds the seconds of each stage to `times`, by its name."""

    def timed_run(stage: Callable[..., T], /, *args: object) -> T:
        start = time.monotonic()
        result = run(stage, *args)
        times[NAMES[stage]] = times.get(NAMES[stage], 0.0) + time.monotonic() - start
        return result

    return timed_run


def ingest_or_embed(spec: Spec, settings: Settings, progress: Progress = silent) -> int:
    """Ingest a named dataset that is not in the warehouse, or embed what has changed in the source of an embedded one.

    Return the number of rows that were read.
    """
    if is_available(spec.dataset, settings):
        return refresh(dataset_of(spec, settings), settings, progress)
    return sum(split.rows for split in datasets.ingest(spec, settings, progress).understood.values())


NAMES: dict[Callable[..., Any], str] = {
    ingest_or_embed: "ingest",
    fit: "fit",
    stage: "encode",
    store_missing: "index",
    evaluate_staged: "evaluate",
    gate: "gate",
    write_report: "report",
    publish: "publish",
    export_published: "export",
}
ROWS: dict[Callable[..., Any], Callable[[Any], int]] = {
    ingest_or_embed: int,
    fit: lambda model: model.rows,
    stage: lambda staged: staged.encoded,
    evaluate_staged: lambda report: report.measured.rows,
}


def open_run(
    spec: Spec, settings: Settings, executor: Executor, progress: Progress = silent, run: Runner = call
) -> Context:
    """Check the specification, ingest a named dataset if it is not in the warehouse, and return the context of the run.

    Raises UsageError, before anything is written, for a run that cannot succeed.
    """
    check_run(spec, settings)
    run(ingest_or_embed, spec, settings, progress)
    return Context.of(spec, settings, executor)


def fit_and_stage(context: Context, run: Runner = call) -> Staged:
    """Fit a model, and stage new and changed rows. If these have drifted and `refit` is drift, fit and stage again."""
    staged = run(stage, context, run(fit, context))
    if reason := refit_reason(context.spec, staged):
        staged = run(stage, context, run(fit, context, reason))
    return staged


def run_stages(
    context: Context, run: Runner = call, on_publish: Callable[[RunOutcome], None] = lambda outcome: None
) -> RunOutcome:
    """Encode new and changed rows, compare the version with the published one, and publish it if the gate passes.

    Then call `on_publish`, and write the exports that the specification asks for.

    Raises GateRejected if the gate refuses the version, or if nothing changed and the published version breaks a rule;
    PublishConflict if another run published meanwhile; ExportFailed if the version is published but not exported.
    """
    start, listed, times = time.monotonic(), time.time(), dict[str, float]()
    run = recorded(run, times)
    staged = fit_and_stage(context, run)
    if context.spec.index:
        run(store_missing, context, staged.base if staged.unchanged else staged.branch)
    if staged.unchanged:
        table = context.open_table()
        version = table.version(staged.base)
        outcome = unchanged.outcome_of(context.spec, table, version, staged.model, time.monotonic() - start)
        return exported(unchanged.check_rules(outcome), context.spec, run)
    report = run(evaluate_staged, context, staged)
    verdict = run(gate, context, staged, report)
    telemetry.record("verdicts", table=staged.table, verdict="passed" if verdict.passed else "rejected")
    page = run(write_report, context, staged, report, verdict, times)
    try:
        version_name = run(publish, context, staged, report, verdict, page)
    finally:  # it lists rejected versions too
        observability.Observer(write_index)(context.settings, staged.table)
    telemetry.record("source_time", listed, table=staged.table)
    telemetry.record("behind_shards", 0, table=staged.table)
    outcome = RunOutcome(
        table=staged.table,
        version=version_name,
        unchanged=False,
        rows=staged.rows,
        encoded=staged.encoded,
        report=page,
        verdict=verdict,
        seconds=time.monotonic() - start,
    )
    on_publish(outcome)
    return exported(outcome, context.spec, run)


def exported(outcome: RunOutcome, spec: Spec, run: Runner = call) -> RunOutcome:
    """Return the outcome of a run after the exports of its published version."""
    if not spec.exports:
        return outcome
    written = run(export_published, spec.exports, outcome.table, outcome.version)
    return outcome.model_copy(update={"exported": written})
