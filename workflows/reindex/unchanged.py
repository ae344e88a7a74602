"""Runs with nothing to do: they only check the published version against their rules."""

import json
import time

from infra import telemetry
from storage.tables.table import CodeTable, Version

from ..context import Context
from ..evaluation.registry import HEALTH
from ..records import Model, RunOutcome, Verdict
from ..spec import Spec
from .planning import run_state
from .publishing import GateRejected


def outcome_if_unchanged(context: Context) -> RunOutcome | None:
    """Return the outcome of a run if the published version is up to date, else None. Runs no stage."""
    start = time.monotonic()
    state = run_state(context)
    if not state.table or not state.base or not state.model or state.head != state.base or not state.plan.empty:
        return None
    return outcome_of(context.spec, state.table, state.base, state.model, time.monotonic() - start)


def outcome_of(spec: Spec, table: CodeTable, version: Version, model: Model, seconds: float) -> RunOutcome:
    """Return the outcome of a run that found the published version up to date, and record that it is."""
    telemetry.record("source_time", time.time() - seconds, table=table.name)
    return RunOutcome(
        table=table.name,
        version=version.name,
        unchanged=True,
        rows=int(version.properties["rows"]),
        encoded=0,
        report=version.properties["report"],
        verdict=stored_verdict(spec, table, version, model),
        seconds=seconds,
    )


def check_rules(outcome: RunOutcome) -> RunOutcome:
    """Return the outcome of a run with nothing to do. Raises GateRejected if the published version breaks a rule."""
    if not outcome.verdict.passed:
        reasons = "; ".join(outcome.verdict.reasons)
        error = GateRejected(f"{outcome.table}: {outcome.version} stays published, but {reasons}")
        error.outcome = outcome
        raise error
    return outcome


def stored_verdict(spec: Spec, table: CodeTable, version: Version, model: Model) -> Verdict:
    """Check the rules of a run against the stored metrics of a version. A metric that is not stored fails its rule."""
    properties, rules, notes = version.properties, spec.gate.bounds, [model.reason] if model.remark else []
    stored: dict[str, float] = json.loads(properties.get("metrics", "{}"))
    health = json.loads(properties.get("health", "{}"))
    requested, measured = (
        of.protocol.relevant(bool(table.vocabulary)) for of in (spec, Spec.stored(properties["spec"]))
    )
    if requested != measured and any(rule.metric.needs != "codes" for rule in rules):
        notes.append(f"{version.name} was measured by another protocol: {properties['protocol']}")
        stored = {}
    elif rules and "measured_at" in properties:
        notes.append(f"metrics were measured on {properties['measured_at']}, before rows were deleted")
    stored |= {name: health[words] for name, words in HEALTH.items() if words in health}
    judged = [rule.judge(stored) for rule in rules]
    notes += [text for holds, text in judged if holds]
    notes += [f"no loss of {name}: nothing has changed" for name in spec.gate.max_loss]
    reasons = [text for holds, text in judged if not holds]
    if reasons and spec.gate.force:
        notes.append(f"stays published by force, reason: {spec.gate.force}")
    return Verdict(passed=not reasons or bool(spec.gate.force), reasons=tuple(reasons), notes=tuple(notes))
