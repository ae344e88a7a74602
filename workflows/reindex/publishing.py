"""Publish a staged version by moving main to it, or tag it as rejected."""

import json
import time
from datetime import UTC, datetime
from functools import partial

from infra.settings import current_user
from storage.features import deletions
from storage.tables import log
from storage.tables.commits import PublishConflict
from storage.tables.table import CodeTable

from ..context import Context
from ..ingested import dataset_of
from ..records import Report, RunOutcome, Staged, Verdict
from .planning import staged_version
from .source import environment


class GateRejected(RuntimeError):
    """The gate refused a version.

    The version is stored as rejected-…, which readers do not see. If nothing had changed, the published version stays,
    and `outcome` is the outcome of the run.
    """

    outcome: RunOutcome | None = None


def publish(context: Context, staged: Staged, report: Report, verdict: Verdict, page: str) -> str:
    """Move main to the staged version, and return its new name, v<N>.

    Raises GateRejected, after storing the version as rejected-…, if the verdict is negative; PublishConflict if another
    run has published since staging began, or if rows were deleted since this run listed the source.
    """
    table = context.open_table()
    properties = {
        **staged_version(table, staged).properties,  # set by staging: model, source, splits
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
        raise GateRejected(f"{staged.table}: {rejected.name} was not published: {'; '.join(verdict.reasons)}")
    return table.publish(version, staged.base_snapshot, partial(_check_deletions, context, table, staged.branch)).name


def _check_deletions(context: Context, table: CodeTable, branch: str) -> None:
    """Raise PublishConflict if rows were deleted since the run began: its version may hold them.

    `gc` then removes the branch: `delete` has not seen it if it was made later.
    """
    if late := deletions.added(dataset_of(context.spec, context.settings).deleted, context.dataset.deleted):
        rows, now_ms = len(deletions.deleted_ids(late)), int(time.time() * 1000)
        log.schedule_purge(table, [branch], now_ms, rows, current_user())
        raise PublishConflict(f"rows of {context.dataset.name} were deleted during the run: run again")
