"""What the flows of deployments share: the names of their runs, their log lines, and the artifact of metrics."""

from typing import Any

from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from storage.tables.table import table_name

from .embedded import log_lines
from .spec import Spec


def run_name() -> str:
    """Return the name of the current flow run: its table, or the warehouse, and the time it was scheduled for."""
    given = flow_run.get_parameters()
    spec = Spec.model_validate(given["spec"]) if "spec" in given else None
    subject = table_name(spec.dataset, spec.code_name) if spec else given.get("table") or "warehouse"
    return f"{subject} {flow_run.get_scheduled_start_time():%Y-%m-%d %H:%M}"


def log_of_run(flow: Any, flow_run: Any, state: Any) -> None:
    """Let the log lines of this project through, which a deployment sends to the server (a hook for running flows)."""
    log_lines()


def artifact_key(table: str, kind: str) -> str:
    """Return the key of an artifact: a-z, 0-9 and hyphens."""
    return f"{table.replace('_', '-')}-{kind}"


def metrics_artifact(table: str, metrics: list[dict[str, Any]], protocol: str) -> None:
    """Publish the rows of `metric_rows` as a Prefect artifact."""
    create_table_artifact(metrics, key=artifact_key(table, "metrics"), description=f"Metrics, by {protocol}")
