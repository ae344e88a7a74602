"""What keeps code tables sound and small: `verify` looks at every part, `gc` deletes what nothing names any more."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal

from prefect import flow

from infra.executors import Progress, connect, silent
from infra.settings import Settings
from storage import codes, filesystem, garbage, iceberg, integrity, models, orphans, tables
from storage.codes import Part
from storage.features import FeatureShard
from storage.filesystem import Upload
from storage.tables import CodeTable, Version

from .ingest import dataset_of
from .spec import Spec, Value
from .stages import open_table

DAY = 86_400
LEAST_GRACE = 1 / 24  # days: longer than a part waits for its commit


class Unsound(RuntimeError):
    """Some part is not what the table says."""


class Verified(Value):
    """What a verification found."""

    table: str
    version: str
    parts: int
    rows: int
    rechecked: int  # parts that were encoded again
    bits: int  # of these, that were compared
    near: int  # of these, that differ and lie at the threshold, as another machine's may
    problems: tuple[str, ...]
    notes: tuple[str, ...]


class Item(Value):
    """Something that goes, or would go."""

    table: str  # none: of the warehouse
    kind: Literal["version", "snapshot", "upload"] | orphans.Kind  # a file is one of a table, or was never ended
    name: str
    bytes: int
    why: str


class Collected(Value):
    """What a collection came to."""

    dry_run: bool
    items: tuple[Item, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        return sum(item.bytes for item in self.items)


def verify(
    table: str,
    version: str = "main",
    deep: bool = False,
    sample: int | None = None,
    mend: bool = False,
    progress: Progress = silent,
) -> Verified:
    """Look at every part of a version, and whether an id is in two; only parts whose ids overlap are read together.

    Deep: also encode the source shards again, all or a sample of so many, and compare bits and content. Mend: put
    damaged parts back in their place, where their source shard still encodes to the same file.
    """
    settings = Settings()
    executor = connect(settings, progress)
    opened = open_table(settings, table)
    found = opened.version(version)
    known = {"table": opened.name, "version": found.name, "rechecked": 0, "bits": 0, "near": 0}
    try:
        parts = sorted(opened.parts(found.snapshot_id).values(), key=lambda part: part.shard)
    except (OSError, ValueError) as error:
        problem = f"expected readable manifests of {found.name}, found: {error}"
        return Verified(**known, parts=0, rows=0, problems=(problem,), notes=())
    known |= {"parts": len(parts), "rows": sum(part.rows for part in parts)}
    check = partial(integrity.check, n_bits=opened.n_bits)
    checks = list(executor.map(check, parts, "verify"))
    if mend and (damaged := [part for part, problems in zip(parts, checks, strict=True) if problems]):
        pairs, _ = _pairs(settings, opened, found, damaged, None)
        function = models.load(settings.warehouse_url, found.properties["model"])
        encode = partial(codes.encode_shard, function=function, folder=opened.data_folder)
        list(executor.map(encode, [shard for _, shard in pairs], "mend"))  # a part's name is the digest of its content
        checks = list(executor.map(check, parts, "verify"))
    problems = _flat(checks)
    problems += _flat(executor.map(integrity.shared, integrity.overlapping(parts), "ids"))
    if not deep or not parts:
        return Verified(**known, problems=tuple(problems), notes=())
    pairs, notes = _pairs(settings, opened, found, parts, sample)
    function = models.load(settings.warehouse_url, found.properties["model"])
    again = list(executor.map(partial(integrity.recheck, function=function), pairs, "encode again"))
    known |= {"rechecked": len(pairs), "bits": sum(c.bits for c in again), "near": sum(c.near for c in again)}
    return Verified(**known, problems=(*problems, *_flat(c.problems for c in again)), notes=tuple(notes))


def _flat(found: Iterable[list[str]]) -> list[str]:
    return [problem for problems in found for problem in problems]


def _pairs(
    settings: Settings, table: CodeTable, version: Version, parts: list[Part], sample: int | None
) -> tuple[list[tuple[Part, FeatureShard]], list[str]]:
    """Parts, all or so many, with the source shards they were encoded from; and how many have none any more."""
    dataset = dataset_of(Spec.model_validate_json(version.properties["spec"]), settings)
    shards = {(shard.name, shard.version): shard for shard in dataset.shards("base", table.vocabulary)}

    def drawn(part: Part) -> str:
        return hashlib.sha256(f"{version.snapshot_id} {part.shard}".encode()).hexdigest()

    chosen = sorted(parts, key=drawn)[:sample]
    pairs = [(part, shards[part.shard, part.version]) for part in chosen if (part.shard, part.version) in shards]
    changed = len(chosen) - len(pairs)
    note = f"{changed} of {len(chosen)} source shards have changed or gone since, and were not compared"
    return pairs, [note] if changed else []


def gc(
    table: str | None = None,
    grace: float = 7,
    keep: int | None = None,
    dry_run: bool = False,
    force: bool = False,
    clock: Callable[[], float] = time.time,
) -> Collected:
    """Delete what nothing names any more, of one table or of all and of the warehouse beside them (storage.garbage).

    Grace is in days. Raises ValueError for one under an hour, in which a run may not have committed what it wrote,
    unless it is forced.
    """
    if not grace >= (0 if force else LEAST_GRACE):
        raise ValueError(f"expected a grace of an hour or more, found {grace * 24:g} hours: --force if nothing runs")
    settings = Settings()
    catalog = iceberg.connect(settings.catalog_url, settings.warehouse_url)
    opened = [tables.open_table(catalog, name) for name in ([table] if table else tables.names(catalog))]
    items: list[Item] = []
    for one in opened:
        items += _items(one.name, garbage.collect(one, grace * DAY, keep, dry_run, clock))
    if table:
        return Collected(dry_run=dry_run, items=tuple(items), notes=())
    beside, notes = _beside(settings.warehouse_url, opened, grace, dry_run, clock)
    return Collected(dry_run=dry_run, items=(*items, *beside), notes=notes)


def _beside(
    warehouse: str, known: list[CodeTable], grace: float, dry_run: bool, clock: Callable[[], float]
) -> tuple[list[Item], tuple[str, ...]]:
    """What goes, or would go, of the warehouse beside its tables."""
    limit, names = clock() - grace * DAY, [table.name for table in known]
    items, notes = list[Item](), list[str]()
    named: set[str] | None = set[str]().union(*(garbage.named(table, grace * DAY, clock) for table in known))
    if strangers := orphans.strangers(warehouse, names):
        named, may = None, f"{', '.join(strangers)} in the warehouse may need them, and is of no table known here"
        notes.append(f"models, what their networks started from, and drawn datasets stay: {may}")
    for kind, files in orphans.find(warehouse, named, names, limit):
        for file in files:
            if not dry_run and not garbage.remove(file, limit):
                break  # it was written again, and leads to the others
            items.append(Item(table="", kind=kind, name=file.url, bytes=file.size, why=orphans.WHY[kind]))
    for upload in orphans.uploads(warehouse, limit):
        if not dry_run:
            filesystem.abort(upload)
        items.append(_upload("", upload))
    return items, tuple(notes)


def _items(table: str, found: garbage.Garbage) -> list[Item]:
    return [
        *(Item(table=table, kind="version", name=name, bytes=0, why=why) for name, why in found.versions.items()),
        *(
            Item(table=table, kind="snapshot", name=str(name), bytes=0, why="has no name, and is no step of a staging")
            for name in found.snapshots
        ),
        *(
            Item(table=table, kind="file", name=file.url, bytes=file.size, why="no version within the grace needs it")
            for file in found.files
        ),
        *(_upload(table, upload) for upload in found.uploads),
    ]


def _upload(table: str, upload: Upload) -> Item:
    return Item(table=table, kind="upload", name=upload.url, bytes=0, why="begun and never ended")


@flow(name="gc")
def gc_flow(table: str | None = None, grace: float = 7, keep: int | None = None) -> Collected:
    """Delete what nothing names any more, on a schedule."""
    return gc(table, grace, keep)


@flow(name="verify")
def verify_flow(table: str | None = None, deep: bool = False, sample: int | None = None) -> list[Verified]:
    """Look at every part that readers see, of a table or all, on a schedule. Raises Unsound where one is wrong."""
    settings = Settings()
    names = [table] if table else tables.names(iceberg.connect(settings.catalog_url, settings.warehouse_url))
    found = [verify(name, deep=deep, sample=sample) for name in names]
    if problems := [problem for one in found for problem in one.problems]:
        raise Unsound(f"found {len(problems)} problems: {'; '.join(problems[:10])}")
    return found
