"""THE flow: ingest, fit, stage, evaluate, gate, publish. One Prefect task a stage, plain Ray inside.

Every stage may be run again, so those that wait for machines and networks are retried; the gate's word and the move
of main are not: a second try could only hide that somebody else published.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from uuid import UUID

from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State

from hashing.mapreduce import Epoch
from infra.executors import Progress, connect, silent
from infra.observability import Observer
from infra.settings import Settings
from storage import models
from storage.tables.table import PublishConflict, table_name

from ..checks import check_run
from ..datasets import ingest
from ..records import Model, Report, RunOutcome, Staged, Verdict
from ..reports.run import metric_rows, run_markdown, write_report
from ..spec import Spec
from ..tables.opening import open_table
from . import fitting, gate, publishing, staging, unchanged

WORTH_ANOTHER_TRY = (OSError, RuntimeError)  # a machine or a network that was lost, a table that others wrote to
FOR_THE_USER = (FileNotFoundError, PermissionError, PublishConflict)
DELAYS: list[float] = [1, 10]  # seconds
_progress: Progress = silent


def show(progress: Progress) -> None:
    """Where flows of this process report the progress of their stages."""
    global _progress
    _progress = progress


@dataclass
class TrainingTable:
    """The epochs of a fit as one artifact of the run, brought up to date as they end."""

    table: str
    artifact: UUID | None = None

    def __call__(self, epochs: Sequence[Epoch]) -> None:
        rows = [dict(epoch) for epoch in epochs]
        if self.artifact:
            with get_client(sync_client=True) as client:
                client.update_artifact(self.artifact, ArtifactUpdate(data=json.dumps(rows)))
        elif rows:
            made = create_table_artifact(rows, key=_key(self.table, "training"), description="training")
            self.artifact = cast(UUID, made)  # in an event loop it would be a coroutine


def _key(table: str, kind: str) -> str:
    """Of an artifact: a-z, 0-9 and hyphens."""
    return f"{table.replace('_', '-')}-{kind}"


def _transient(task: Any, run: Any, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, WORTH_ANOTHER_TRY) and not isinstance(error, FOR_THE_USER)


@task(name="ingest", retries=2, retry_delay_seconds=DELAYS, retry_condition_fn=_transient)
def ingest_task(spec: Spec) -> str:
    return ingest(spec, Settings(), _progress).name


@task(name="fit", retries=2, retry_delay_seconds=DELAYS, retry_condition_fn=_transient)
def fit_task(spec: Spec, because: str = "") -> Model:
    settings = Settings()
    shown = Observer(TrainingTable(table_name(spec.dataset, spec.code_name)))
    model = fitting.fit(spec, settings, connect(settings, _progress, shown), because)
    shown(models.training(settings.warehouse_url, model.digest))  # of a model that is used again, all that is shown
    return model


@task(name="stage", retries=2, retry_delay_seconds=DELAYS, retry_condition_fn=_transient)
def stage_task(spec: Spec, model: Model) -> Staged:
    settings = Settings()
    return staging.stage(spec, settings, connect(settings, _progress), model)


@task(name="evaluate", retries=2, retry_delay_seconds=DELAYS, retry_condition_fn=_transient)
def evaluate_task(spec: Spec, staged: Staged) -> Report:
    settings = Settings()
    return gate.evaluate_staged(spec, settings, connect(settings, _progress), staged)


@task(name="gate")
def gate_task(spec: Spec, staged: Staged, measured: Report) -> Verdict:
    return gate.gate(spec, Settings(), staged, measured)


@task(name="report", retries=2, retry_delay_seconds=DELAYS, retry_condition_fn=_transient)
def report_task(spec: Spec, staged: Staged, measured: Report, verdict: Verdict) -> str:
    settings = Settings()
    epochs = models.training(settings.warehouse_url, staged.model.digest)
    url = write_report(spec, settings, staged, measured, verdict, epochs)
    summary = run_markdown(spec, staged, measured, verdict, epochs)
    Observer(_artifacts)(staged.table, metric_rows(measured), measured.protocol, summary, url)
    return url


def _artifacts(table: str, metrics: list[dict[str, Any]], protocol: str, summary: str, url: str) -> None:
    """Show the report as artifacts of the run."""
    create_table_artifact(metrics, key=_key(table, "metrics"), description=protocol)
    create_markdown_artifact(summary, key=_key(table, "summary"))
    create_link_artifact(url if "://" in url else f"file://{url}", "report", key=_key(table, "report"))


@task(name="publish")
def publish_task(spec: Spec, staged: Staged, measured: Report, verdict: Verdict, page: str) -> str:
    return publishing.publish(spec, Settings(), staged, measured, verdict, page)


@flow(name="reindex", validate_parameters=True)
def reindex(spec: Spec) -> RunOutcome:
    """Encode what changed, measure it beside what is published, and publish it if it is good enough."""
    start = time.monotonic()
    check_run(spec, Settings())
    ingest_task(spec)
    staged = stage_task(spec, fit_task(spec))
    if reason := fitting.refit_reason(spec, staged):
        staged = stage_task(spec, fit_task(spec, reason))
    if staged.unchanged:
        table = open_table(Settings(), staged.table)
        return unchanged.held(unchanged.outcome_of(spec, table, table.version(staged.base), time.monotonic() - start))
    measured = evaluate_task(spec, staged)
    verdict = gate_task(spec, staged, measured)
    page = report_task(spec, staged, measured, verdict)
    version = publish_task(spec, staged, measured, verdict, page)
    return RunOutcome(
        table=staged.table,
        version=version,
        unchanged=False,
        rows=staged.rows,
        encoded=staged.encoded,
        report=page,
        verdict=verdict,
        seconds=time.monotonic() - start,
    )


if __name__ == "__main__":
    reindex(Spec(dataset="sample"))
