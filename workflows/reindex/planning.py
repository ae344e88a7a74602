"""The plan of a run, which is the difference between the source and the table, and its cost."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from storage.features.shard import FeatureShard
from storage.tables.parts import Part
from storage.tables.table import CodeTable, PublishConflict, Version

from ..context import Context
from ..records import Model, Outlook, Plan, Staged
from ..spec import digest
from .fitting import foreseen
from .source import fingerprint

READERS = 16  # threads that read footers: latency dominates


def plan(parts: dict[str, Part], shards: dict[str, FeatureShard], alike: bool) -> Plan:
    """Return the difference between the parts of a version and the shards of the source."""
    both = sorted(parts.keys() & shards.keys())
    changed = {name for name in both if parts[name].version != shards[name].version}
    rest = tuple(name for name in both if name not in changed)
    return Plan(
        added=tuple(sorted(shards.keys() - parts.keys())),
        changed=tuple(sorted(changed)),
        stale=() if alike else rest,
        removed=tuple(sorted(parts.keys() - shards.keys())),
        kept=rest if alike else (),
    )


def encoded_alike(version: Version, model: str, precision: str) -> bool:
    """Return whether the parts of a version can be kept: the same model has encoded them with the same precision."""
    properties = version.properties
    return properties.get("model") == model and properties.get("precision", "float32") == precision


def elsewhere(
    table: CodeTable, head: Version, model: str, precision: str, missing: Sequence[FeatureShard]
) -> dict[str, Part]:
    """Return parts of missing shards that another version holds, encoded alike; by shard name.

    Only named versions count (published, rejected or staged), because `gc` keeps their files for a grace period.
    """
    wanted = {(shard.name, shard.version) for shard in missing}
    versions = [v for v in table.versions() if encoded_alike(v, model, precision)] if wanted else []
    parts = table.added_parts(head.snapshot_id, versions)
    return {part.shard: part for part in parts if (part.shard, part.version) in wanted}


class Look(NamedTuple):
    """The state of the source and the table, and the plan that follows from it."""

    shards: dict[str, FeatureShard]
    table: CodeTable | None
    base: Version | None  # the published version
    head: Version | None  # where the run would start: the published version, or the branch of an earlier attempt
    model: Model | None
    reason: str  # why a model must be fitted, or can be reused
    plan: Plan


def look(context: Context) -> Look:
    """Return the plan of a run. Writes nothing and reads no row."""
    shards = {shard.name: shard for shard in context.dataset.shards("base")}
    table = context.known_table()
    model, reason = foreseen(context)
    precision = context.spec.precision
    base = head = table.version() if table else None
    if table and base and model:
        source = fingerprint(shards.values())
        head = table.version(head_of(table, branch_of(table, base, model.digest, precision, source)))
    parts = table.parts(head.snapshot_id) if table and head else {}
    alike = bool(head and model and encoded_alike(head, model.digest, precision))
    difference = plan(parts, shards, alike)
    if table and head and model:
        found = sorted(elsewhere(table, head, model.digest, precision, [shards[name] for name in difference.missing]))
        difference = difference.model_copy(update={"found": tuple(found)})
    return Look(shards, table, base, head, model, reason, difference)


def outlook(context: Context) -> Outlook:
    """Return the work that `reindex` would do now, and an estimate of its time."""
    found = look(context)
    missing = [found.shards[name] for name in found.plan.missing]
    rows = sum(rows_of(missing))
    rate = _rate(found.table, found.model.fit if found.model else "") if found.table else 0.0
    return Outlook(
        table=context.table_name,
        base=found.base.name if found.base else "v0",
        plan=found.plan,
        rows=rows,
        bytes=sum(file.size for shard in missing for file in shard.files),
        seconds=rows / rate if rate else None,
        fit=found.model is None,
        reason=found.reason,
    )


def branch_of(table: CodeTable, base: Version, model: str, precision: str, source: str) -> str:
    """Return the branch name of a plan. A repeated attempt at the same plan finds the same branch."""
    encoding = model if precision == "float32" else f"{model} {precision}"
    return f"staged-{digest(table.name, base.snapshot_id, encoding, source)[:12]}"


def head_of(table: CodeTable, branch: str) -> str:
    """Return where a branch starts: at itself, at the rejected version of the same plan, or at main."""
    return next((name for name in (branch, branch.replace("staged-", "rejected-")) if table.has_ref(name)), "main")


def staged_version(table: CodeTable, staged: Staged) -> Version:
    """Return the version on its branch. Raises PublishConflict if another run of the same plan removed the branch."""
    if not table.has_ref(staged.branch):
        raise PublishConflict(
            f"branch {staged.branch} of table {table.name} is gone: another run of the same plan finished it; "
            "run again to see the result"
        )
    return table.version(staged.branch)


def rows_of(shards: Sequence[FeatureShard]) -> list[int]:
    """Return the number of rows of each shard, read from the footers."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda shard: shard.rows, shards))


def _rate(table: CodeTable, fit: str) -> float:
    """Return rows per second of the last run that encoded any, preferably by the same method."""
    runs = [v.properties for v in table.versions() if int(v.properties.get("encoded", 0)) > 0]
    runs = [found for found in runs if found["fit"] == fit] or runs
    return int(runs[-1]["encoded"]) / float(runs[-1]["encode_seconds"]) if runs else 0.0
