"""The versions of code tables, looked at and moved between: history, rollback, diff, compare."""

from __future__ import annotations

import json
from typing import Any

from infra.settings import Settings, current_user
from storage.tables import iceberg, log
from storage.tables.table import CodeTable, Version, load_table, table_names

from ..context import open_table
from ..records import Verdict
from ..spec import Spec, Value


class Event(Value):
    """What happened to a table: a version came to be, or main was moved back to one."""

    version: str
    published: str  # now: what readers see
    what: str  # published, staged, rejected, rolled back
    when: str
    rows: int | None
    model: str
    metrics: dict[str, float]
    by: str
    note: str  # reasons of a rejection or of force, rows that were deleted


class Difference(Value):
    """Two versions of a table, a and b. Names of shards, in order."""

    table: str
    a: str
    b: str
    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    rows: tuple[int, int]
    models: tuple[str, str]
    protocols: tuple[str, str]
    metrics: dict[str, tuple[float | None, float | None]]
    measured_at: tuple[str, str]  # the versions whose metrics they are: another one where rows were deleted since

    @property
    def comparable(self) -> bool:
        """Whether both were measured alike."""
        return self.protocols[0] == self.protocols[1]


class Codes(Value):
    """What a code table has published."""

    table: str
    version: str
    rows: int
    bits: int
    method: str
    model: str
    metrics: dict[str, float]
    measured_at: str  # the version whose metrics they are: an earlier one where rows were deleted since


class Alike(Value):
    """Code tables that were measured by one protocol: these may stand beside each other."""

    protocol: str
    codes: tuple[Codes, ...]


def rollback(table: str, to: str | None = None) -> str:
    """Move what readers see back to a published version, by default the one before: the name of it.

    One commit, made only if main is still what it was when this began; raises PublishConflict where it is not.
    """
    opened = open_table(Settings(), table)
    now = opened.version()
    if to is None:
        earlier = [version for version in opened.versions() if 0 < version.number < now.number]
        if not earlier:
            raise ValueError(f"expected a version of {table} before {now.name}, found none")
        to = max(earlier, key=lambda version: version.number).name
    return log.roll_back(opened, to, now.snapshot_id, current_user()).name


def history(table: str) -> list[Event]:
    """All that happened to a table and is still known, oldest first."""
    opened = open_table(Settings(), table)
    main, doomed = opened.version(), log.purge_deadlines(opened)
    events = [_event(version, version.name == main.name, doomed.get(version.name)) for version in opened.versions()]
    for moved in log.rollbacks(opened):
        known = {"version": moved["to"], "when": moved["at"], "by": moved["by"], "note": f"from {moved['from']}"}
        events.append(Event(**known, what="rolled back", published="", rows=None, model="", metrics={}))
    return sorted(events, key=lambda event: event.when)


def diff(table: str, a: str, b: str) -> Difference:
    """What makes version b of a table other than version a."""
    opened = open_table(Settings(), table)
    one, other = opened.version(a), opened.version(b)
    old, new = opened.parts(one.snapshot_id), opened.parts(other.snapshot_id)
    metrics = _metrics(one), _metrics(other)
    return Difference(
        table=opened.name,
        a=one.name,
        b=other.name,
        added=tuple(sorted(new.keys() - old.keys())),
        changed=tuple(sorted(name for name in old.keys() & new.keys() if old[name].url != new[name].url)),
        removed=tuple(sorted(old.keys() - new.keys())),
        rows=(sum(part.rows for part in old.values()), sum(part.rows for part in new.values())),
        models=(one.properties.get("model", ""), other.properties.get("model", "")),
        protocols=(one.properties.get("protocol", ""), other.properties.get("protocol", "")),
        measured_at=(_measured_at(one), _measured_at(other)),
        metrics={
            name: (metrics[0].get(name), metrics[1].get(name)) for name in dict.fromkeys([*metrics[0], *metrics[1]])
        },
    )


def compare_tables(dataset: str) -> list[Alike]:
    """What the code tables of a dataset have published, apart where they were not measured alike.

    Raises LookupError where no code table of the dataset has published anything.
    """
    groups: dict[str, list[Codes]] = {}
    for table in of_dataset(Settings(), dataset):
        version = table.version()
        if spec := _spec(version):
            found = Codes(
                table=table.name,
                version=version.name,
                rows=sum(part.rows for part in table.parts(version.snapshot_id).values()),
                bits=table.n_bits,
                method=spec.method.method,
                model=version.properties["model"],
                metrics=_metrics(version),
                measured_at=_measured_at(version),
            )
            groups.setdefault(version.properties.get("protocol", ""), []).append(found)
    if not groups:
        raise LookupError(f"expected a dataset with published codes, found none of {dataset}")
    return [Alike(protocol=protocol, codes=tuple(codes)) for protocol, codes in groups.items()]


def of_dataset(settings: Settings, dataset: str) -> list[CodeTable]:
    """The code tables of a dataset, by name: those of which some version was made of it."""
    catalog = iceberg.connect(settings.catalog_url, settings.warehouse_url)
    opened = [load_table(catalog, name) for name in table_names(catalog)]
    return [table for table in opened if any(s and s.dataset == dataset for s in map(_spec, table.versions()))]


def _spec(version: Version) -> Spec | None:
    spec = version.properties.get("spec")
    return Spec.stored(spec) if spec else None


def _metrics(version: Version) -> dict[str, float]:
    found: dict[str, float] = json.loads(version.properties.get("metrics", "{}"))
    return found


def _measured_at(version: Version) -> str:
    return version.properties.get("measured_at", version.name)


def _event(version: Version, now: bool, due: int | None) -> Event:
    properties: dict[str, Any] = version.properties
    what = "published" if version.number > 0 else version.name.partition("-")[0]
    verdict = Verdict.model_validate_json(properties["verdict"]) if "verdict" in properties else None
    notes = list(verdict.reasons) if verdict else []
    if verdict and what == "published" and verdict.reasons:
        notes.append(f"forced: {Spec.stored(properties['spec']).gate.force}")
    if "deleted" in properties:
        notes.append(f"{properties['deleted']} ids deleted; measured at {properties['measured_at']}")
    if due:
        notes.append(f"has rows that were deleted: gone by {log.utc_timestamp(due)}")
    return Event(
        version=version.name,
        published="now" if now else "",
        what=what,
        when=log.utc_timestamp(version.timestamp_ms),
        rows=int(properties["rows"]) if "rows" in properties else None,
        model=properties.get("model", ""),
        metrics=_metrics(version),
        by=properties.get("by", ""),
        note="; ".join(notes),
    )
