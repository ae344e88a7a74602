"""The log of a code table, in its properties: rollbacks, and the deadlines of versions that hold deleted rows."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pyiceberg.table.update import AssertRefSnapshotId

from . import commits
from .commits import PublishConflict, change_properties, commit, retry_commit
from .iceberg import PREFIX
from .table import CodeTable, Version, rejected_name

ROLLBACKS, PURGES = PREFIX + "rollbacks", PREFIX + "purges"


def roll_back(table: CodeTable, to: str, seen: int, by: str) -> Version:
    """Move main back to a published version and log it, with the user, in one commit. Return the version.

    Raises PublishConflict if main is no longer at the snapshot `seen`; ValueError if the version was never published,
    is the current one, or holds deleted rows.
    """

    def attempt() -> None:
        now, target = table.version(), table.version(to)
        if now.snapshot_id != seen:
            raise PublishConflict(
                f"expected main of table {table.name} at snapshot {seen}, found {now.snapshot_id} ({now.name}): "
                "another run published or rolled back; check the history and roll back again if still needed"
            )
        name = target.name  # in its own spelling
        if target.number < 1 or target.snapshot_id == seen:
            raise ValueError(f"cannot roll back from {now.name} to {name}: choose another published version")
        if due := purge_deadlines(table).get(name):
            raise ValueError(
                f"cannot roll back to {name}: it holds deleted rows, and is removed by {utc_timestamp(due)}"
            )
        entry = {"at": utc_timestamp(), "by": by, "from": now.name, "to": name}
        unchanged, logged = change_properties(table.iceberg, _appended(table, ROLLBACKS, entry))
        guards = (
            AssertRefSnapshotId(ref="main", snapshot_id=seen),
            AssertRefSnapshotId(ref=name, snapshot_id=target.snapshot_id),
        )
        commit(table.iceberg, (*guards, *unchanged), (commits.set_branch("main", target.snapshot_id), *logged))

    retry_commit(table.iceberg, attempt)
    return table.version()


def rollbacks(table: CodeTable) -> list[dict[str, str]]:
    """Return the logged rollbacks, oldest first: at (ISO 8601), by (who), from and to (versions)."""
    return list(json.loads(table.iceberg.properties.get(ROLLBACKS, "[]")))


def schedule_purge(table: CodeTable, versions: Sequence[str], due_ms: int, rows: int, by: str) -> None:
    """Log that versions hold deleted rows and must be removed by a deadline. Earlier deadlines of a version are kept.

    The deadline is in milliseconds since the epoch. The number of deleted rows, and the user, are for the log.
    """

    def attempt() -> None:
        deadlines = purge_deadlines(table)
        if new := [name for name in versions if deadlines.get(name, due_ms + 1) > due_ms]:
            entry = {"at": utc_timestamp(), "by": by, "due_ms": due_ms, "rows": rows, "versions": new}
            commit(table.iceberg, *change_properties(table.iceberg, _appended(table, PURGES, entry)))

    retry_commit(table.iceberg, attempt)


def purge_deadlines(table: CodeTable) -> dict[str, int]:
    """Return the deadline of each version that holds deleted rows, in milliseconds since the epoch.

    A staged version keeps its deadline when it is rejected.
    """
    deadlines: dict[str, int] = {}
    for entry in json.loads(table.iceberg.properties.get(PURGES, "[]")):
        names = {other for name in entry["versions"] for other in (name, rejected_name(name))}
        for name in filter(table.has_ref, sorted(names)):
            deadlines[name] = min(entry["due_ms"], deadlines.get(name, entry["due_ms"]))
    return deadlines


def utc_timestamp(ms: float | None = None) -> str:
    """Return a time, given in milliseconds since the epoch and by default now, as ISO 8601 in UTC.

    >>> utc_timestamp(0)
    '1970-01-01T00:00:00+00:00'
    """
    when = datetime.now(UTC) if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
    return when.isoformat(timespec="seconds")


def _appended(table: CodeTable, key: str, entry: Mapping[str, Any]) -> dict[str, str]:
    """Return the table property that holds a JSON list, with an entry appended."""
    return {key: json.dumps([*json.loads(table.iceberg.properties.get(key) or "[]"), entry])}
