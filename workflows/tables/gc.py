"""Garbage collection: delete unreferenced versions and files."""

import time
from collections.abc import Callable
from typing import Literal

from prefect import flow

from infra.settings import Settings
from storage import unreferenced
from storage.files.uploads import Upload, abort_upload
from storage.tables import garbage
from storage.tables.table import CodeTable

from ..checks import UsageError
from ..context import open_table, open_tables
from ..scheduled import log_of_run, run_name
from ..spec import Value

DAY = 86_400
LEAST_GRACE = 1 / 24  # days; longer than the delay between writing a part and its commit


class Item(Value):
    """A deleted item, or one to delete in a dry run."""

    table: str  # empty for files of the warehouse outside tables
    kind: Literal["version", "snapshot", "upload"] | unreferenced.Kind  # upload: one that was never completed
    name: str
    bytes: int
    why: str


class Collected(Value):
    """The result of a garbage collection."""

    dry_run: bool
    items: tuple[Item, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def gc(
    table: str | None = None,
    grace: float = 7,
    keep: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    clock: Callable[[], float] = time.time,
) -> Collected:
    """Delete unreferenced versions and files of one table, or of all tables and the rest of the warehouse.

    `grace` is in days, and at least one hour unless `force` is set: an active run may commit its files later than it
    writes them. Raises UsageError for a shorter grace.
    """
    if not grace >= (0 if force else LEAST_GRACE):
        raise UsageError(
            f"expected a grace of at least one hour, found {grace * 24:g} hours: pass --force if no run is active"
        )
    settings = Settings()
    opened = [open_table(settings, table)] if table else open_tables(settings)
    items: list[Item] = []
    for one in opened:
        items += _items(one.name, garbage.collect(one, grace * DAY, keep, dry_run, clock))
    if table:
        return Collected(dry_run=dry_run, items=tuple(items), notes=())
    others, notes = _outside_tables(settings.warehouse_url, opened, grace, dry_run, clock)
    return Collected(dry_run=dry_run, items=(*items, *others), notes=notes)


def _outside_tables(
    warehouse: str, known: list[CodeTable], grace: float, dry_run: bool, clock: Callable[[], float]
) -> tuple[list[Item], tuple[str, ...]]:
    """Delete unreferenced files of the warehouse outside its tables, and return them with notes."""
    limit, names = clock() - grace * DAY, [table.name for table in known]
    items, notes = list[Item](), list[str]()
    digests = (garbage.referenced_digests(table, grace * DAY, clock) for table in known)
    referenced: set[str] | None = set[str]().union(*digests)
    if unknown := unreferenced.unknown_tables(warehouse, names):
        referenced = None
        notes.append(
            "kept all models, pretrained parameters and derived datasets, because folders of unknown tables may need "
            f"them: {', '.join(unknown)}"
        )
    for kind, files in unreferenced.find_unreferenced(warehouse, referenced, names, limit):
        for file in files:
            if not dry_run and not garbage.remove_if_older(file, limit):
                break  # it has been written again meanwhile, and references the other files
            items.append(Item(table="", kind=kind, name=file.url, bytes=file.size, why=unreferenced.WHY[kind]))
    for upload in unreferenced.unreferenced_uploads(warehouse, limit):
        if not dry_run:
            abort_upload(upload)
        items.append(_upload("", upload))
    return items, tuple(notes)


def _items(table: str, found: garbage.Garbage) -> list[Item]:
    return [
        *(Item(table=table, kind="version", name=name, bytes=0, why=why) for name, why in found.versions.items()),
        *(
            Item(table=table, kind="snapshot", name=str(name), bytes=0, why="not part of any version")
            for name in found.snapshots
        ),
        *(
            Item(
                table=table,
                kind="file",
                name=file.url,
                bytes=file.size,
                why="not referenced by any version within the grace period",
            )
            for file in found.files
        ),
        *(_upload(table, upload) for upload in found.uploads),
    ]


def _upload(table: str, upload: Upload) -> Item:
    return Item(table=table, kind="upload", name=upload.url, bytes=0, why="incomplete upload")


@flow(name="gc", flow_run_name=run_name, on_running=[log_of_run])
def gc_flow(table: str | None = None, grace: float = 7, keep: int | None = None) -> Collected:
    """Delete unreferenced versions and files, on a schedule."""
    return gc(table, grace, keep)
