"""The versions of code tables: history, rollback, diff and comparison."""

import json
from typing import Any

from hashing.names import counted
from infra.settings import Settings, current_user
from storage.tables import log
from storage.tables.table import CodeTable, Version

from ..checks import schema_of
from ..context import open_table, open_tables
from ..evaluation.registry import split_protocol
from ..records import Verdict
from ..spec import Spec, Value


class Event(Value):
    """An event in the history of a table: a new version, or a rollback."""

    version: str
    published: str  # "now" for the published version
    what: str  # published, staged, rejected, rolled back
    when: str
    rows: int | None
    model: str
    metrics: dict[str, float]
    by: str
    note: str  # reasons of a rejection or a forced publication, deleted rows


class Difference(Value):
    """The difference between versions a and b of a table. Shard names are sorted."""

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
    measured_at: tuple[str, str]  # versions that the metrics belong to: earlier ones if rows have been deleted since

    @property
    def comparable(self) -> bool:
        """Whether both were measured by the same protocol."""
        return self.protocols[0] == self.protocols[1]


class Codes(Value):
    """The published version of a code table."""

    table: str
    version: str
    rows: int
    bits: int
    method: str
    model: str
    metrics: dict[str, float]
    measured_at: str  # version that the metrics belong to: an earlier one if rows have been deleted since
    ranking: str  # by which estimate the metrics estimator.* of a quantizer rank; empty for other methods


class ComparableTables(Value):
    """Code tables whose metrics are comparable, because they were measured by the same protocol."""

    protocol: str  # without the ranking of each table
    codes: tuple[Codes, ...]


def rollback(table: str, to: str | None = None) -> str:
    """Publish an earlier version again, by default the previous one, and return its name.

    Raises PublishConflict if another run published meanwhile.
    """
    opened = open_table(Settings(), table)
    now = opened.version()
    if to is None:
        earlier = [version for version in opened.versions() if 0 < version.number < now.number]
        if not earlier:
            raise ValueError(f"cannot roll back {table}: no version was published before {now.name}")
        to = max(earlier, key=lambda version: version.number).name
    return log.roll_back(opened, to, now.snapshot_id, current_user()).name


def history(table: str) -> list[Event]:
    """Return the recorded events of a table, oldest first."""
    return events(open_table(Settings(), table))


def events(opened: CodeTable) -> list[Event]:
    """Return the recorded events of an opened table, oldest first."""
    main, deadlines = opened.version(), log.purge_deadlines(opened)
    found = [_event(version, version.name == main.name, deadlines.get(version.name)) for version in opened.versions()]
    for moved in log.rollbacks(opened):
        known = {"version": moved["to"], "when": moved["at"], "by": moved["by"], "note": f"from {moved['from']}"}
        found.append(Event(**known, what="rolled back", published="", rows=None, model="", metrics={}))
    return sorted(found, key=lambda event: event.when)


def diff(table: str, a: str, b: str) -> Difference:
    """Return the difference between versions a and b of a table."""
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


def compare_tables(dataset: str) -> list[ComparableTables]:
    """Return the published versions of the code tables of a dataset, grouped by protocol.

    Raises LookupError if no code table of the dataset has a published version.
    """
    groups: dict[str, list[Codes]] = {}
    for table in tables_of(Settings(), dataset):
        version = table.version()
        if spec := _spec(version):
            protocol, ranking = split_protocol(version.properties.get("protocol", ""))
            found = Codes(
                table=table.name,
                version=version.name,
                rows=sum(part.rows for part in table.parts(version.snapshot_id).values()),
                bits=table.n_bits,
                method=spec.method.method,
                model=version.properties["model"],
                metrics=_metrics(version),
                measured_at=_measured_at(version),
                ranking=ranking,
            )
            groups.setdefault(protocol, []).append(found)
    if not groups:
        schema_of(dataset, Settings())  # refuses an unknown name
        raise LookupError(f"dataset {dataset} has no published codes: run reindex first")
    return [ComparableTables(protocol=protocol, codes=tuple(codes)) for protocol, codes in groups.items()]


def metrics_of_versions(table: CodeTable, protocol: str) -> dict[str, dict[str, float]]:
    """Return the metrics of the published versions that were measured by a protocol, by name, oldest first."""
    published = [version for version in table.versions() if version.number > 0]
    return {v.name: _metrics(v) for v in published if v.properties.get("protocol") == protocol}


def tables_of(settings: Settings, dataset: str) -> list[CodeTable]:
    """Return the code tables with a version that was made from a dataset."""
    opened = open_tables(settings)
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
        deleted = counted(int(properties["deleted"]), "id")
        notes.append(f"{deleted} deleted; metrics measured at {properties['measured_at']}")
    if due:
        notes.append(f"holds deleted rows; removed by {log.utc_timestamp(due)}")
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
