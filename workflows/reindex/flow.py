"""The flow `reindex`: the pipeline with one Prefect task per stage, and Ray tasks inside.

Stages that depend on machines and networks are retried. The gate and publishing are not, because a retry could hide a
conflict with another run; an export is not, because it says how to repeat it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, cast
from uuid import UUID

from httpx import TransportError
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.objects import State
from prefect.events import emit_event
from prefect.settings import get_current_settings
from prefect.states import Failed

from hashing.mapreduce import Epoch
from infra import telemetry
from infra.executors import Progress, connect, silent
from infra.observability import Observer
from infra.settings import Settings
from storage import models
from storage.tables.commits import PublishConflict
from storage.tables.table import table_name

from ..context import Context
from ..export import export_published
from ..records import Model, Report, RunOutcome, Staged, Verdict
from ..reports.run import metric_rows, run_markdown, write_report
from ..scheduled import artifact_key, log_of_run, metrics_artifact, run_name
from ..spec import Spec
from . import pipeline
from .fitting import fit
from .gate import gate
from .publishing import GateRejected, publish

TRANSIENT = (OSError, RuntimeError)  # a lost machine or network, a concurrent write to the table
FINAL = (FileNotFoundError, PermissionError, PublishConflict)  # for the user to resolve
DELAYS: list[float] = [1, 10]  # seconds between tries
P = ParamSpec("P")
T = TypeVar("T")
_progress: Progress = silent
_ended: Future[RunOutcome] = Future()


def begin(progress: Progress) -> Future[RunOutcome]:
    """Set the observer of progress for the next run of this process, and return its outcome or error to be.

    Prefect may fail to record how a run ended, and then raises an error of its own.
    """
    global _progress, _ended
    _progress, _ended = progress, Future()
    return _ended


class Reporter(Observer[P]):
    """An observer that sends to the Prefect server. If no try of a request is answered, later ones are tried once."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        super().__call__(*args, **kwargs)
        if isinstance(self.error, TransportError):
            get_current_settings().client.max_retries = 0


@dataclass
class TrainingTable:
    """An artifact of the run with the epochs of a fit, updated after each report."""

    table: str
    artifact: UUID | None = None

    def __call__(self, epochs: Sequence[Epoch]) -> None:
        rows = [dict(epoch) for epoch in epochs]
        if self.artifact:
            with get_client(sync_client=True) as client:
                client.update_artifact(self.artifact, ArtifactUpdate(data=json.dumps(rows)))
        elif rows:
            made = create_table_artifact(
                rows, key=artifact_key(self.table, "training"), description="Epochs of training"
            )
            self.artifact = cast(UUID, made)  # made is a coroutine only inside an event loop


def _transient(task: Any, run: Any, state: State[Any]) -> bool:
    error = state.result(raise_on_failure=False)
    return isinstance(error, TRANSIENT) and not isinstance(error, FINAL)


def _report(context: Context, staged: Staged, report: Report, verdict: Verdict, times: Mapping[str, float]) -> str:
    url = write_report(context, staged, report, verdict, times)
    epochs = models.training_epochs(context.warehouse, staged.model.digest)
    summary = run_markdown(context.spec, staged, report, verdict, epochs)
    link = _link(context.settings, url)
    Reporter(_artifacts)(staged.table, metric_rows(report), report.protocol, summary, url, link)
    return url


def _link(settings: Settings, url: str) -> str:
    """Return the web address of a report. Without a web server, only browsers on this machine open it, if any."""
    if settings.reports:
        page = url.removeprefix(settings.warehouse_url).removeprefix("/reports/")
        return f"{settings.reports.rstrip('/')}/{page}"
    return url if "://" in url else f"file://{url}"


def _artifacts(table: str, metrics: list[dict[str, Any]], protocol: str, summary: str, url: str, link: str) -> None:
    """Publish the report as Prefect artifacts."""
    metrics_artifact(table, metrics, protocol)
    create_markdown_artifact(summary, key=artifact_key(table, "summary"), description="Summary of the run")
    create_link_artifact(link, "report", key=artifact_key(table, "report"), description=f"Report of the run: {url}")


@dataclass(frozen=True)
class TaskRunner:
    """Run each stage of the pipeline as a Prefect task, with its artifacts."""

    on_epochs: Callable[[Sequence[Epoch]], None]

    def __call__(self, stage: Callable[..., T], /, *args: Any) -> T:
        with_artifacts: dict[Callable[..., Any], Callable[..., Any]] = {fit: self._fit, write_report: _report}
        retries: dict[str, Any] = {"retries": 2, "retry_delay_seconds": DELAYS, "retry_condition_fn": _transient}

        def as_task() -> T:  # without parameters, because Prefect would search the context for futures
            function: Callable[..., T] = with_artifacts.get(stage, stage)
            return pipeline.logged(stage, function, *args)

        options = {} if stage in (gate, publish, export_published) else retries
        decorate: Any = task
        run: Callable[[], T] = decorate(as_task, name=pipeline.NAMES[stage], cache_policy=NO_CACHE, **options)
        return run()

    def _fit(self, context: Context, because: str = "") -> Model:
        model = fit(context, because)
        self.on_epochs(models.training_epochs(context.warehouse, model.digest))  # again, as the model may be reused
        return model


def _announce(what: str, table: str, **about: Any) -> None:
    """Send the event hashkiln.version.published or hashkiln.version.rejected."""
    resource = {"prefect.resource.id": f"hashkiln.table.{table}", "prefect.resource.name": table}
    emit_event(f"hashkiln.version.{what}", resource, payload={"table": table, **about})


@flow(name="reindex", flow_run_name=run_name, on_running=[log_of_run], validate_parameters=True)
def reindex(spec: Spec) -> RunOutcome:
    """Encode new and changed rows, compare the version with the published one, and publish it if the gate passes.

    If the gate refuses the version, the run ends in the state Rejected, which is of type FAILED but is not a failure of
    the run; as a function, it raises GateRejected.
    """
    settings, table, announce = Settings(), table_name(spec.dataset, spec.code_name), Observer(_announce)
    on_epochs, ended = Reporter(TrainingTable(table)), Future[RunOutcome]() if _ended.done() else _ended
    run = TaskRunner(on_epochs)

    def on_epoch(epochs: Sequence[Epoch]) -> None:
        if not on_epochs.failed:  # a server that is away would delay every epoch; the task `fit` sends all in the end
            on_epochs(epochs)

    executor = connect(settings, _progress, on_epoch)

    def on_publish(outcome: RunOutcome) -> None:
        get_run_logger().info("published %s %s: %s rows", table, outcome.version, f"{outcome.rows:,}")
        announce("published", **outcome.model_dump(mode="json"))

    with telemetry.span(f"reindex {table}"):  # Prefect's own span of the flow began before traces were on
        try:
            context = pipeline.open_run(spec, settings, executor, _progress, run)
            ended.set_result(pipeline.run_stages(context, run, on_publish))
            return ended.result()
        except Exception as error:
            ended.set_exception(error)
            if not isinstance(rejected := error, GateRejected):
                raise
            if not rejected.outcome:  # else no version was made: the published one breaks a rule
                announce("rejected", table, why=str(rejected))
            return cast(RunOutcome, Failed(name="Rejected", message=str(rejected), data=rejected))
