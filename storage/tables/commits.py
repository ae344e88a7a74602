"""Commits to an Iceberg table: made only if what they require holds of it as it then is, else planned anew."""

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
FOREVER: dict[str, None] = {"max_ref_age_ms": None, "max_snapshot_age_ms": None, "min_snapshots_to_keep": None}
T = TypeVar("T")


class PublishConflict(RuntimeError):
    """Main is no longer the snapshot that was seen: somebody else published, or rolled back."""


def commit(table: Table, requirements: tuple[Any, ...], updates: tuple[TableUpdate, ...]) -> None:
    """One catalog commit, made only if the requirements hold of the table as it then is."""
    same = AssertTableUUID(uuid=table.metadata.table_uuid)
    table.catalog.commit_table(table, (same, *requirements), updates)
    table.refresh()


def committing(table: Table, attempt: Callable[[], T]) -> T:
    """What an attempt gives. It looks at the table anew, and is made again where another writer came first."""
    for number in range(ATTEMPTS):
        table.refresh()
        try:
            return attempt()
        except (CommitFailedException, ValidationException):
            pass  # the latter also where pyiceberg's threads share an evaluator, and so miss a file that is there
        except ValueError as error:  # another branch took the sequence number
            if "sequence number" not in str(error):
                raise
        time.sleep(random.uniform(0, 0.05 * 2**number))  # noqa: S311  (it only spreads the writers)
    raise PublishConflict(f"expected to commit to table {table.name()[-1]}, found other writers {ATTEMPTS} times")


def branch(name: str, snapshot_id: int) -> TableUpdate:
    """A branch, new or moved."""
    return SetSnapshotRefUpdate(ref_name=name, type=SnapshotRefType.BRANCH, snapshot_id=snapshot_id, **FOREVER)


def tag(name: str, snapshot_id: int) -> TableUpdate:
    """A tag, new or moved."""
    return SetSnapshotRefUpdate(ref_name=name, type=SnapshotRefType.TAG, snapshot_id=snapshot_id, **FOREVER)
