"""Commits to an Iceberg table: optimistic, with the requirements checked by the catalog, and retried on conflict."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pyiceberg.exceptions import CommitFailedException, ValidationException
from pyiceberg.table import Table
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.update import AssertTableUUID, SetSnapshotRefUpdate, TableUpdate

ATTEMPTS = 8
NO_EXPIRY: dict[str, None] = {"max_ref_age_ms": None, "max_snapshot_age_ms": None, "min_snapshots_to_keep": None}
T = TypeVar("T")


class PublishConflict(RuntimeError):
    """Main is no longer the expected snapshot: another run has published or rolled back."""


def commit(table: Table, requirements: tuple[Any, ...], updates: tuple[TableUpdate, ...]) -> None:
    """Apply updates in one catalog commit, and refresh the table.

    Raises
    ------
    CommitFailedException
        If a requirement does not hold for the current state of the table. Nothing has changed then.
    """
    same_table = AssertTableUUID(uuid=table.metadata.table_uuid)
    table.catalog.commit_table(table, (same_table, *requirements), updates)
    table.refresh()


def retry_commit(table: Table, attempt: Callable[[], T]) -> T:
    """Return the result of `attempt`, which reads the refreshed table, plans and commits; retry it on conflict.

    Raises
    ------
    PublishConflict
        If other writers come first in all attempts.
    """
    for number in range(ATTEMPTS):
        table.refresh()
        try:
            return attempt()
        except (CommitFailedException, ValidationException):
            pass  # pyiceberg's threads share an evaluator, so validation can also miss a file that is there
        except ValueError as error:  # another branch took the sequence number
            if "sequence number" not in str(error):
                raise
        time.sleep(random.uniform(0, 0.05 * 2**number))  # noqa: S311  (jitter)
    raise PublishConflict(f"cannot commit to table {table.name()[-1]}: other writers came first {ATTEMPTS} times")


def set_branch(name: str, snapshot_id: int) -> TableUpdate:
    """Return the update that creates or moves a branch."""
    return SetSnapshotRefUpdate(ref_name=name, type=SnapshotRefType.BRANCH, snapshot_id=snapshot_id, **NO_EXPIRY)


def set_tag(name: str, snapshot_id: int) -> TableUpdate:
    """Return the update that creates or moves a tag."""
    return SetSnapshotRefUpdate(ref_name=name, type=SnapshotRefType.TAG, snapshot_id=snapshot_id, **NO_EXPIRY)
