"""The flow `evaluate`: measure any version of a code table and optionally compare it with another."""

from prefect import flow

from infra.executors import Progress, connect, silent
from infra.observability import Observer
from infra.settings import Settings

from ..checks import UsageError, check_protocol, check_resources, schema_of
from ..context import Context, open_version
from ..records import Report
from ..reports.run import metric_rows
from ..scheduled import log_of_run, metrics_artifact, run_name
from ..spec import Protocol, Spec
from .version import measure_version


def evaluate_version(
    table: str, version: str, beside: str | None, protocol: Protocol, progress: Progress = silent
) -> Report:
    """Measure a version with its stored specification and the given protocol, and compare it with version `beside`.

    Raises LookupError as `open_version` does; UsageError if the protocol or the resources are not possible.
    """
    if beside and protocol.ties == "by-id":
        raise UsageError("versions are compared by expectation over ties only: leave out ties by-id, or --beside")
    if beside and protocol.asymmetric:
        raise UsageError("versions are compared by Hamming distance only: leave out asymmetric, or --beside")
    settings = Settings()
    opened, found = open_version(settings, table, version)
    spec = Spec.stored(found.properties["spec"]).model_copy(update={"protocol": protocol})
    check_protocol(protocol, schema_of(spec.dataset, settings))
    check_resources(settings, "evaluate")
    base = opened.version(beside) if beside else None
    return measure_version(Context.of(spec, settings, connect(settings, progress)), opened, found, base)


@flow(name="evaluate", flow_run_name=run_name, on_running=[log_of_run])
def evaluate_flow(
    table: str, version: str = "main", beside: str | None = None, protocol: Protocol | None = None
) -> Report:
    """Measure a version, by default the published one, on a schedule."""
    report = evaluate_version(table, version, beside, protocol or Protocol())
    Observer(metrics_artifact)(table, metric_rows(report), report.protocol)
    return report
