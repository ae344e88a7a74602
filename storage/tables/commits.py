"""Commits to an Iceberg table: optimistic, with the requirements checked by the catalog, and retried on conflict."""

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from pyiceberg.exceptions import (
    BadRequestError,
    CommitFailedException,
    CommitStateUnknownException,
    ValidationException,
)
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.update import (
    AddSchemaUpdate,
    AssertCurrentSchemaId,
    AssertTableUUID,
    SetCurrentSchemaUpdate,
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)
from requests import RequestException
from sqlalchemy.exc import DBAPIError

ATTEMPTS = 8
NO_EXPIRY: dict[str, None] = {"max_ref_age_ms": None, "max_snapshot_age_ms": None, "min_snapshots_to_keep": None}
T = TypeVar("T")


class PublishConflict(RuntimeError):
    """A version cannot be published as planned: another run, a rollback or a deletion came first."""


def commit(table: Table, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]) -> None:
    """Apply updates in one catalog commit, and refresh the table.

    Raises
    ------
    CommitFailedException
        If a requirement does not hold for the current state of the table. Nothing is changed then.
    """
    same_table = AssertTableUUID(uuid=table.metadata.table_uuid)
    table.catalog.commit_table(table, (same_table, *requirements), updates)
    table.refresh()


def retry_commit(table: Table, attempt: Callable[[], T]) -> T:
    """Return the result of `attempt`, a function that plans and commits from the refreshed table; retry on conflict.

    Raises ConnectionError if the catalog fails without saying whether it has committed; PublishConflict if other
    writers come first in all attempts.
    """
    name = table.name()[-1]
    for number in range(ATTEMPTS):
        table.refresh()
        try:
            return attempt()
        except (CommitFailedException, ValidationException):
            pass  # pyiceberg's threads share an evaluator, so validation can also miss a file that is there
        except (ValueError, BadRequestError) as error:  # another writer took the sequence number or removed a snapshot
            if not re.search("sequence number|does not exist", str(error)):
                raise
        except (CommitStateUnknownException, RequestException, DBAPIError) as error:
            raise ConnectionError(
                f"the catalog failed in a commit to table {name} that may have happened: see `hashkiln history {name}`"
                f" and run again ({' '.join(str(error).split())})"
            ) from error
        time.sleep(random.uniform(0, 0.05 * 2**number))  # noqa: S311  (jitter)
    raise PublishConflict(f"cannot commit to table {name}: other writers came first {ATTEMPTS} times")


def set_branch(name: str, snapshot_id: int) -> TableUpdate:
    """Return the update that creates or moves a branch."""
    return SetSnapshotRefUpdate(ref_name=name, type=SnapshotRefType.BRANCH, snapshot_id=snapshot_id, **NO_EXPIRY)


def set_tag(name: str, snapshot_id: int) -> TableUpdate:
    """Return the update that creates or moves a tag."""
    return SetSnapshotRefUpdate(ref_name=name, type=SnapshotRefType.TAG, snapshot_id=snapshot_id, **NO_EXPIRY)


def same_properties(table: Table) -> TableRequirement:
    """Return the requirement that no other commit has changed properties: see `change_properties`."""
    return AssertCurrentSchemaId(current_schema_id=table.schema().schema_id)


def change_properties(
    table: Table, changed: dict[str, str]
) -> tuple[tuple[TableRequirement, ...], tuple[TableUpdate, ...]]:
    """Return the requirements and updates of a commit that changes properties, if no other commit has changed them.

    Iceberg has no requirement for properties, but one for the schema. Each such commit therefore adds a schema, which
    differs from the previous one in the comment of a column.
    """
    current = table.schema()
    number = 1 + max(table.metadata.schemas, key=lambda schema: schema.schema_id).schema_id
    comment = {"doc": f"places in hashkiln.vocabulary; revision {number} of the properties"}
    fields = [field.model_copy(update=comment) if field.name == "labels" else field for field in current.fields]
    return (
        (same_properties(table),),
        (
            SetPropertiesUpdate(updates=changed),
            AddSchemaUpdate(schema=Schema(*fields, schema_id=number)),  # type: ignore[call-arg]  # alias of schema_
            SetCurrentSchemaUpdate(schema_id=-1),
        ),
    )
