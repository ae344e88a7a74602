"""What is noted of a code table beside its versions: rollbacks, and versions that must be gone by a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pyiceberg.table.update import AssertRefSnapshotId, SetPropertiesUpdate

from . import commits
from .commits import PublishConflict, commit, retry_commit
from .iceberg import PREFIX, AssertProperty
from .table import CodeTable, Version

ROLLBACKS, PURGES = PREFIX + "rollbacks", PREFIX + "purges"


def roll_back(table: CodeTable, to: str, seen: int, by: str) -> Version:
    """Move main back to a published version, and note it: one commit, made only if main is still the snapshot seen.

    Raises PublishConflict where it is not, ValueError where the version was never published, or is to be purged.
    """

    def attempt() -> None:
        now, target = table.version(), table.version(to)
        if now.snapshot_id != seen:
            raise PublishConflict(
                f"expected main of table {table.name} at snapshot {seen}, found {now.snapshot_id} ({now.name}): "
                "somebody else moved it; look at the history, and decide again"
            )
        if target.number < 1 or target.snapshot_id == seen:
            raise ValueError(f"expected another published version than {now.name}, found {to}")
        if due := purge_deadlines(table).get(to):
            raise ValueError(
                f"expected a version without deleted rows, found {to}, which has some until {utc_timestamp(due)}"
            )
        unchanged, noted = _noting(table, ROLLBACKS, {"at": utc_timestamp(), "by": by, "from": now.name, "to": to})
        guards = (
            AssertRefSnapshotId(ref="main", snapshot_id=seen),
            AssertRefSnapshotId(ref=to, snapshot_id=target.snapshot_id),
        )
        commit(table.iceberg, (*guards, unchanged), (commits.set_branch("main", target.snapshot_id), noted))

    retry_commit(table.iceberg, attempt)
    return table.version()


def rollbacks(table: CodeTable) -> list[dict[str, str]]:
    """When main was moved back (at), by whom, from and to which version; oldest first."""
    return list(json.loads(table.iceberg.properties.get(ROLLBACKS, "[]")))


def schedule_purge(table: CodeTable, versions: Sequence[str], due_ms: int, rows: int, by: str) -> None:
    """Note that versions hold rows which were deleted, and must be gone by a time."""

    def attempt() -> None:
        known = purge_deadlines(table)
        if new := [name for name in versions if known.get(name, due_ms + 1) > due_ms]:
            entry = {"at": utc_timestamp(), "by": by, "due_ms": due_ms, "rows": rows, "versions": new}
            unchanged, noted = _noting(table, PURGES, entry)
            commit(table.iceberg, (unchanged,), (noted,))

    retry_commit(table.iceberg, attempt)


def purge_deadlines(table: CodeTable) -> dict[str, int]:
    """Versions that hold deleted rows, and when (ms) they must be gone."""
    due: dict[str, int] = {}
    for entry in json.loads(table.iceberg.properties.get(PURGES, "[]")):
        for name in filter(table.has_ref, entry["versions"]):
            due[name] = min(entry["due_ms"], due.get(name, entry["due_ms"]))
    return due


def utc_timestamp(ms: float | None = None) -> str:
    """A time, by default now, as ISO 8601 in UTC."""
    when = datetime.now(UTC) if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
    return when.isoformat(timespec="seconds")


def _noting(table: CodeTable, key: str, entry: Mapping[str, Any]) -> tuple[AssertProperty, SetPropertiesUpdate]:
    """What appends an entry to a list among the properties, and what that requires."""
    content = table.iceberg.properties.get(key)
    noted = json.dumps([*json.loads(content or "[]"), entry])
    return AssertProperty(key=key, value=content), SetPropertiesUpdate(updates={key: noted})
