"""Publish: one move of main, or a tag that no reader looks at."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from infra.settings import current_user

from ..context import Context
from ..records import Report, RunOutcome, Staged, Verdict
from .planning import staged_version
from .source import environment


class GateRejected(RuntimeError):
    """The gate said no. The version stays as rejected-…, where no reader looks; or nothing has changed (`outcome`)."""

    outcome: RunOutcome | None = None


def publish(context: Context, staged: Staged, report: Report, verdict: Verdict, page: str) -> str:
    """Move main to the staged version, if it passed and main is still what staging started from. Its name: v<N>.

    Raises GateRejected after keeping the version as rejected-…, PublishConflict where somebody else published.
    """
    table = context.open_table()
    properties = {
        **staged_version(table, staged).properties,  # of staging: the model, the source, the splits
        "fitted": staged.model.reason,
        "spec": context.spec.model_dump_json(),
        "protocol": report.protocol,
        "metrics": json.dumps({name: estimate.value for name, estimate in report.measured.metrics.items()}),
        "health": json.dumps(report.health),
        "verdict": verdict.model_dump_json(),
        "report": page,
        "rows": str(staged.rows),
        "encoded": str(staged.encoded),
        "dropped": str(staged.dropped),
        "encode_seconds": f"{staged.encode_seconds:.3f}",
        "drift": staged.drift.model_dump_json() if staged.drift else "",
        "by": current_user(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": json.dumps(environment()),
    }
    table.replace(staged.branch, [], set(), properties)
    version = staged_version(table, staged)
    if not verdict.passed:
        rejected = table.reject(version)
        raise GateRejected(f"{staged.table}: {rejected.name} is not published: {'; '.join(verdict.reasons)}")
    return table.publish(version, staged.base_snapshot).name
