"""The command `reindex`, which runs the whole pipeline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hashing.names import counted

from .common import REJECTED, console, errors, progress, show
from .options import AsJson, Specify, run_specification, takes

if TYPE_CHECKING:
    from ..records import RunOutcome
    from ..spec import Spec

app = typer.Typer()


@app.command()
@takes(run_specification)
def reindex(
    specify: Specify,
    force: Annotated[
        str, typer.Option(metavar="REASON", help="Publish even if the gate refuses; the history records the reason.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Encode new and changed rows, compare the new version with the published one, and publish it if the gate passes.

    Examples: `hashkiln reindex --dataset sample`, `hashkiln reindex --dataset sample --dry-run`,
    `hashkiln reindex --dataset mnist --from ~/mnist --method itq --bits 32 --floor precision_radius_2=0.3`,
    `hashkiln reindex --dataset sample --refit drift --max-loss map=0.01 --ceiling health.constant_bits=0`,
    `hashkiln reindex --dataset sample --export faiss-ivf=/srv/index`
    """
    spec = specify(force=force)
    if dry_run:
        return _print_forecast(spec, as_json)
    from ..reindex.run import run

    with progress() as report:
        outcome = run(spec, report)
    if as_json:
        show(outcome.model_dump(mode="json"), True)
    elif outcome.unchanged:
        _print_unchanged(outcome)
    else:
        _print_published(outcome)
    if not as_json:
        for folder in outcome.exported:
            console.print(f"Exported: {folder}", soft_wrap=True)
    if not outcome.verdict.passed:
        raise typer.Exit(REJECTED)


def _print_unchanged(outcome: RunOutcome) -> None:
    console.print(f"Nothing to do: {outcome.table} {outcome.version} is up to date.")
    for note in outcome.verdict.notes:
        console.print(escape(note), soft_wrap=True)
    for reason in outcome.verdict.reasons:
        errors.print(f"[red]{escape(reason)}", soft_wrap=True)


def _print_published(outcome: RunOutcome) -> None:
    from infra.settings import Settings

    from ..context import open_table

    metrics = json.loads(open_table(Settings(), outcome.table).version(outcome.version).properties["metrics"])
    show({name: f"{value:.4f}" for name, value in metrics.items()}, False, outcome.table)
    rows = counted(outcome.rows, "row")
    console.print(f"Published {outcome.table} {outcome.version}: {rows}, {outcome.encoded:,} encoded")
    console.print(f"Report: {outcome.report}", soft_wrap=True)


def _print_forecast(spec: Spec, as_json: bool) -> None:
    from infra.executors import connect
    from infra.settings import Settings

    from ..context import Context
    from ..reindex.planning import forecast

    settings = Settings()
    found = forecast(Context.of(spec, settings, connect(settings)))
    if as_json:
        return show(found.model_dump(mode="json"), True)
    rows = {"table": f"{found.table}, " + ("new" if found.base == "v0" else f"based on {found.base}")}
    labels = {"added": "added", "changed": "changed", "stale": "of another model", "removed": "removed"}
    for field, label in (labels | {"found": "encoded before"}).items():
        names = getattr(found.plan, field)
        rows[f"shards {label}"] = f"{len(names):,}" + (f": {', '.join(names[:3])}" if names else "")
    rows |= {
        "shards unchanged": f"{len(found.plan.kept):,}",
        "rows to encode": f"{found.rows:,}",
        "bytes to encode": f"{found.bytes:,}",
        "time to encode": "no estimate yet" if found.seconds is None else f"{found.seconds:,.1f} s",
        "fit": f"{'yes' if found.fit else 'no'}: {found.reason}",
    }
    show(rows, False, "plan")
