"""The flow `evaluate`: measure any version of a code table and optionally compare it with another."""

from __future__ import annotations

from prefect import flow

from infra.executors import Progress, connect, silent
from infra.settings import Settings

from ..checks import check_protocol, schema_of
from ..context import Context, open_table
from ..records import Report
from ..spec import Protocol, Spec
from .version import measure_version


def evaluate_version(
    table: str, version: str, beside: str | None, protocol: Protocol, progress: Progress = silent
) -> Report:
    """Measure a version with its stored specification and the given protocol.

    Raises LookupError if the version does not exist or is empty.
    """
    settings = Settings()
    opened = open_table(settings, table)
    found = opened.version(version)
    if "spec" not in found.properties:
        raise LookupError(f"expected a version with rows, found {found.name} of {table}, which is empty")
    spec = Spec.stored(found.properties["spec"]).model_copy(update={"protocol": protocol})
    if beside and protocol.ties == "by-id":
        raise ValueError(
            "ties by-id cannot be compared with another version: use ties expectation, or leave out the other version"
        )
    check_protocol(protocol, schema_of(spec.dataset, settings))
    base = opened.version(beside) if beside else None
    return measure_version(Context.of(spec, settings, connect(settings, progress)), opened, found, base)


@flow(name="evaluate")
def evaluate_flow(
    table: str, version: str = "main", beside: str | None = None, protocol: Protocol | None = None
) -> Report:
    """Measure the published version by default; runs on a schedule."""
    return evaluate_version(table, version, beside, protocol or Protocol())
