"""Evaluate a staged version, and decide whether it may be published."""

import math
from collections.abc import Sequence

from hashing.names import counted
from storage.features.shard import FeatureShard
from storage.tables.parts import Part, dropped_rows

from ..context import Context
from ..evaluation.registry import HEALTH
from ..evaluation.version import measure_version
from ..records import Comparison, Report, Staged, Verdict
from ..spec import Gate
from .planning import rows_of, staged_version


def evaluate_staged(context: Context, staged: Staged) -> Report:
    """Measure the staged version, and compare it with the published one on their common rows."""
    table = context.open_table()
    base = table.version(staged.base) if staged.base != "v0" else None  # v0 has neither tag nor rows
    return measure_version(context, table, staged_version(table, staged), base)


def gate(context: Context, staged: Staged, report: Report) -> Verdict:
    """Return the verdict on a staged version.

    Every listed source row must be encoded exactly once and still be there, all metrics must be finite and within their
    floors and ceilings, and no metric may drop by more than its limit, beyond the bootstrap interval.
    """
    rules, table = context.spec.gate, context.open_table()
    parts = table.parts(staged_version(table, staged).snapshot_id)
    before = table.parts(staged.base_snapshot)
    reasons, notes = _changes(context.base, context.dataset.shards("base"))
    reasons = reasons or _coverage(parts, before, {shard.name: shard for shard in context.base})
    found = {name: estimate.value for name, estimate in report.measured.metrics.items()}
    reasons += [f"{name} is not finite" for name, value in found.items() if not math.isfinite(value)]
    found |= {name: report.health[words] for name, words in HEALTH.items()}
    reasons += [reason for holds, reason in (rule.judge(found) for rule in rules.bounds) if not holds]
    if constant := int(found["health.constant_bits"]):
        notes.append(f"{constant} bits are constant over all rows and carry no information")
    if report.comparison:
        losses, differences = _losses(rules, report.comparison)
        reasons, notes = reasons + losses, notes + differences
    elif report.incomparable:
        notes.append(f"not comparable with {staged.base}: {report.incomparable}")
        if rules.max_loss:
            reasons.append(f"the loss of {', '.join(rules.max_loss)} cannot be checked: {notes[-1]}")
    else:
        notes.append("First version: checked floors, coverage and finite values only")
    if staged.dropped:
        notes.append(f"{staged.dropped:,} invalid source rows were dropped and quarantined")
    if staged.drift:
        notes.append(f"{'drift' if staged.drift.shows else 'no drift'}: {staged.drift}")
    if reasons and rules.force:
        notes.append(f"published by force, reason: {rules.force}")
    return Verdict(passed=not reasons or bool(rules.force), reasons=tuple(reasons), notes=tuple(notes))


def _changes(listed: Sequence[FeatureShard], now: Sequence[FeatureShard]) -> tuple[list[str], list[str]]:
    """Return (reasons, notes) on source files that changed, were removed or came since staging listed them."""
    before, after = ({file for shard in some for file in (*shard.files, *shard.beside)} for some in (listed, now))
    reasons, notes = [], []
    if gone := sorted(before - after):
        files = counted(len(gone), "source file")
        reasons.append(f"coverage: {files} changed or removed since the run listed them, such as {gone[0].url}")
    if came := {file.url for file in after} - {file.url for file in before}:
        notes.append(f"left to the next run: {counted(len(came), 'source file')} that came since this one listed them")
    return reasons, notes


def _coverage(parts: dict[str, Part], before: dict[str, Part], shards: dict[str, FeatureShard]) -> list[str]:
    """Return the reasons, if any, why the parts do not hold every source row exactly once.

    Only rows of shards whose part is not published yet are counted.
    """
    reasons = []
    if missing := sorted(name for name in shards if name not in parts or parts[name].version != shards[name].version):
        reasons.append(f"coverage: {len(missing)} of {len(shards)} source shards are missing, such as {missing[0]}")
    if extra := sorted(parts.keys() - shards.keys()):
        reasons.append(f"coverage: {len(extra)} parts have no source shard, such as {extra[0]}")
    new = sorted(name for name in parts.keys() & shards.keys() - set(missing) if before.get(name) != parts[name])
    dropped = dropped_rows([parts[name] for name in new])
    for name, rows in zip(new, rows_of([shards[name] for name in new]), strict=True):
        if (held := parts[name].rows + dropped.get(name, 0)) != rows:
            reasons.append(f"coverage: expected {rows:,} rows of {name}, as in the source, found {held:,}")
            break
    return reasons


def _losses(rules: Gate, comparison: Comparison) -> tuple[list[str], list[str]]:
    """Return (reasons, notes) on metrics that dropped against the published version. map always has a limit."""
    reasons, notes = [], []
    for rule in rules.losses:
        d = comparison.differences[rule.name]
        difference = f"{rule.name} changed by {d} since {comparison.version}, on {comparison.rows:,} common rows"
        position = "within" if d.low <= 0 <= d.high else "beyond"
        notes.append(f"{difference}: {position} sampling noise")
        sign = -1 if rule.metric.better == "less" else 1
        if max(sign * d.low, sign * d.high) < 0 and -sign * d.value > rule.bound:
            reasons.append(f"{difference}: a loss of more than {rule.bound:.4f}, beyond sampling noise")
    return reasons, notes
