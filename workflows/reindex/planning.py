"""The plan of a run: the difference between the source and the table, and a forecast of its cost."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from storage.features import deletions
from storage.features.shard import FeatureShard
from storage.tables.commits import PublishConflict
from storage.tables.parts import Part
from storage.tables.table import CodeTable, Version, rejected_name

from ..context import Context
from ..records import Forecast, Model, Plan, Staged
from ..spec import digest
from .fitting import reusable_model
from .source import fingerprint

READERS = 16  # threads that read footers; latency dominates


def plan_parts(parts: dict[str, Part], shards: dict[str, FeatureShard], same: bool) -> Plan:
    """Return the difference between the parts of a version and the shards of the source.

    `same` is whether this run encodes as that version was encoded; if not, unchanged shards are stale.
    """
    both = sorted(parts.keys() & shards.keys())
    changed = {name for name in both if parts[name].version != shards[name].version}
    rest = tuple(name for name in both if name not in changed)
    return Plan(
        added=tuple(sorted(shards.keys() - parts.keys())),
        changed=tuple(sorted(changed)),
        stale=() if same else rest,
        removed=tuple(sorted(parts.keys() - shards.keys())),
        kept=rest if same else (),
    )


def same_encoding(version: Version, model: str, precision: str) -> bool:
    """Return whether a model has encoded the parts of a version with a precision, so that they can be kept."""
    properties = version.properties
    return properties.get("model") == model and properties.get("precision", "float32") == precision


def reusable_parts(
    table: CodeTable, head: Version, model: str, precision: str, missing: Sequence[FeatureShard]
) -> dict[str, Part]:
    """Return the parts of missing shards in other versions with the same encoding, by shard name.

    Only named versions count (published, rejected or staged), because `gc` keeps their files for a grace period.
    """
    wanted = {(shard.name, shard.version) for shard in missing}
    versions = [v for v in table.versions() if same_encoding(v, model, precision)] if wanted else []
    parts = table.added_parts(head.snapshot_id, versions)
    return {part.shard: part for part in parts if (part.shard, part.version) in wanted}


class RunState(NamedTuple):
    """The source and the table before a run, and the plan that follows from them."""

    shards: dict[str, FeatureShard]
    table: CodeTable | None
    base: Version | None  # the published version
    head: Version | None  # where the run starts: the published version, or the branch of an earlier attempt
    model: Model | None
    reason: str  # why a model must be fitted, or can be reused
    plan: Plan


def run_state(context: Context) -> RunState:
    """Return the state before a run. Writes nothing, and reads no rows."""
    shards = {shard.name: shard for shard in context.dataset.shards("base")}
    table = context.known_table()
    model, reason = reusable_model(context)
    precision = context.spec.precision
    base = head = table.version() if table else None
    if table and base and model:
        source = fingerprint(shards.values())
        branch = branch_of(table, base, model.digest, precision, source, context.dataset.deleted)
        head = table.version(head_of(table, branch))
    parts = table.parts(head.snapshot_id) if table and head else {}
    difference = plan_parts(parts, shards, bool(head and model and same_encoding(head, model.digest, precision)))
    if table and head and model:
        missing = [shards[name] for name in difference.missing]
        found = sorted(reusable_parts(table, head, model.digest, precision, missing))
        difference = difference.model_copy(update={"found": tuple(found)})
    return RunState(shards, table, base, head, model, reason, difference)


def forecast(context: Context) -> Forecast:
    """Return the work that `reindex` would do now, and an estimate of its time."""
    state = run_state(context)
    missing = [state.shards[name] for name in state.plan.missing]
    rows = sum(rows_of(missing))
    rate = _rate(state.table, state.model.fit if state.model else "") if state.table else 0.0
    return Forecast(
        table=context.table_name,
        base=state.base.name if state.base else "v0",
        plan=state.plan,
        rows=rows,
        bytes=sum(file.size for shard in missing for file in shard.files),
        seconds=rows / rate if rate else None,
        fit=state.model is None,
        reason=state.reason,
    )


def branch_of(table: CodeTable, base: Version, model: str, precision: str, source: str, deleted: Sequence[str]) -> str:
    """Return the branch name of a plan. Another attempt at the same plan finds the same branch.

    A deletion makes it another plan: parts on the branch may hold its rows, even if no file of the source did when they
    were deleted.
    """
    encoding = model if precision == "float32" else f"{model} {precision}"
    plan = digest(table.name, base.snapshot_id, encoding, source, *deletions.names(deleted))
    return f"staged-{plan[:12]}"


def head_of(table: CodeTable, branch: str) -> str:
    """Return where staging starts: at the branch itself, at the rejected version of the same plan, or at main."""
    return next((name for name in (branch, rejected_name(branch)) if table.has_ref(name)), "main")


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
