"""Commands for the life of a table: history, rollback, diff, compare, verify, gc, delete."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from .common import FAILED, AsJson, console, errors, progress, show

if TYPE_CHECKING:
    from ..tables.gc import Collected
    from ..tables.history import Alike, Difference

app = typer.Typer()
Table = Annotated[str, typer.Argument(help="A code table, such as mnist__itq32.")]
UNITS = {"m": 1 / 1440, "h": 1 / 24, "d": 1.0}  # days


def duration(text: str) -> float:
    """Days of 90m, 36h or 7d."""
    if not (found := re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text)):
        raise typer.BadParameter(f"expected a duration such as 90m, 36h or 7d, found {text!r}")
    return float(found[1]) * UNITS[found[2]]


@app.command()
def history(table: Table, as_json: AsJson = False) -> None:
    """All that happened to a table: versions published, staged and rejected and why, and rollbacks.

    Example: `hashkiln history sample__itq32`
    """
    from ..tables.history import history as run

    events = run(table)
    if as_json:
        return show([event.model_dump(mode="json") for event in events], True)
    rows = [
        {
            "version": event.version,
            "": f"{event.what}, now" if event.published else event.what,
            "when": event.when.removesuffix("+00:00"),
            "rows": "" if event.rows is None else f"{event.rows:,}",
            "model": event.model[:12],
            "map": f"{event.metrics['map']:.4f}" if "map" in event.metrics else "",
            "by": event.by,
        }
        for event in events
    ]
    now = next((event.version for event in events if event.published), "nothing")
    show(rows, False, f"{table}: readers see {now}")
    for event in events:
        if event.note:
            console.print(escape(f"{event.version}, {event.what}: {event.note}"), soft_wrap=True)


@app.command()
def rollback(
    table: Table,
    to: Annotated[str | None, typer.Option(metavar="vN", help="Which.  [default: the one before]")] = None,
    as_json: AsJson = False,
) -> None:
    """Let readers see an earlier version again. It is noted in the history; the next one is numbered on.

    Examples: `hashkiln rollback sample__itq32`, `hashkiln rollback sample__itq32 --to v3`
    """
    from ..tables.history import rollback as run

    version = run(table, to)
    if as_json:
        return show({"table": table, "version": version}, True)
    console.print(f"{table}: readers see {version}")


@app.command()
def diff(
    table: Table,
    a: Annotated[str, typer.Argument(help="v3, staged-…, rejected-…, main")],
    b: Annotated[str, typer.Argument(help="Another version.")],
    as_json: AsJson = False,
) -> None:
    """What makes version B other than version A: shards, rows, models, and what both measured.

    Example: `hashkiln diff sample__itq32 v1 v2`
    """
    from ..tables.history import diff as run

    found = run(table, a, b)
    if as_json:
        return show(found.model_dump(mode="json"), True)
    show(_rows_of(found), False, f"{table}: {found.a} and {found.b}")
    for what in ("added", "changed", "removed"):
        names: tuple[str, ...] = getattr(found, what)
        shown = f": {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else ""
        console.print(f"shards {what}: {len(names)}{escape(shown)}", soft_wrap=True)
    for version, measured in zip((found.a, found.b), found.measured_at, strict=True):
        if version != measured:
            console.print(f"{version} was not measured: its metrics are those of {measured}")
    if not found.comparable:
        console.print("Metrics were measured by unlike protocols, and are not comparable:")
        for version, protocol in zip((found.a, found.b), found.protocols, strict=True):
            console.print(f"  {version}: {escape(protocol or 'not measured')}", soft_wrap=True)


def _rows_of(found: Difference) -> list[dict[str, str]]:
    rows = {"rows": tuple(f"{rows:,}" for rows in found.rows), "model": tuple(model[:12] for model in found.models)}
    if found.comparable:
        rows |= {
            name: tuple("" if value is None else f"{value:.4f}" for value in pair)
            for name, pair in found.metrics.items()
        }
    return [{"": name, found.a: one, found.b: other} for name, (one, other) in rows.items()]


@app.command()
def compare(
    dataset: Annotated[str, typer.Argument(help="A dataset of which there are code tables.")],
    as_json: AsJson = False,
) -> None:
    """The code tables of a dataset side by side: several methods, several lengths.

    Codes that were measured by unlike protocols are never put beside each other: each protocol has a table of its own.

    Example: `hashkiln compare mnist`
    """
    from ..tables.history import compare_tables as run

    groups = run(dataset)
    if as_json:
        return show([group.model_dump(mode="json") for group in groups], True)
    for group in groups:
        show(_rows_beside(group), False, group.protocol or "not measured")
    if len(groups) > 1:
        console.print(f"{len(groups)} protocols: figures of different tables above are not comparable.")


def _rows_beside(group: Alike) -> list[dict[str, str]]:
    """A row for each thing known, a column for each table."""
    columns = {}
    for codes in group.codes:
        same = codes.version == codes.measured_at
        columns[codes.table] = {
            "version": codes.version if same else f"{codes.version}, measured at {codes.measured_at}",
            "method": codes.method,
            "bits": str(codes.bits),
            "rows": f"{codes.rows:,}",
            "model": codes.model[:12],
            **{name: f"{value:.4f}" for name, value in codes.metrics.items()},
        }
    names = dict.fromkeys(name for column in columns.values() for name in column)
    return [{"": name, **{table: column.get(name, "") for table, column in columns.items()}} for name in names]


@app.command()
def verify(
    table: Table,
    version: Annotated[str, typer.Option(help="main, v3, staged-…, rejected-…")] = "main",
    deep: Annotated[bool, typer.Option("--deep", help="Also encode the source again, and compare every bit.")] = False,
    sample: Annotated[int | None, typer.Option(min=1, help="Of the source only so many shards.")] = None,
    mend: Annotated[bool, typer.Option("--mend", help="Encode the shards of damaged parts again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at every part of a version: file, size, SHA-256, rows, ids. A line for each problem, and exit 1 if any.

    Examples: `hashkiln verify sample__itq32`, `hashkiln verify sample__itq32 --version v1 --deep --sample 100`
    """
    from ..tables.verify import verify as run

    if sample and not deep:
        raise typer.BadParameter("expected --sample with --deep, found it alone")
    with progress() as report:
        found = run(table, version, deep, sample, mend, report)
    if as_json:
        show(found.model_dump(mode="json"), True)
    else:
        for problem in found.problems:
            errors.print(f"[red]{escape(problem)}", soft_wrap=True)
        for note in found.notes:
            console.print(escape(note), soft_wrap=True)
        compared = f", {found.bits:,} bits of {found.rechecked:,} shards encoded again" if deep else ""
        near = f" ({found.near:,} of them differ at the threshold)" if found.near else ""
        console.print(
            f"{found.table} {found.version}: {found.parts:,} parts, {found.rows:,} rows{compared}{near}: "
            f"{len(found.problems) or 'no'} problem{'s' * (len(found.problems) != 1)}",
            soft_wrap=True,
        )
    if found.problems:
        raise typer.Exit(FAILED)


@app.command()
def gc(
    table: Annotated[str | None, typer.Argument(help="A code table.  [default: all, and beside them]")] = None,
    grace: Annotated[str, typer.Option(help="How long what nothing names stays: 36h, 7d.")] = "7d",
    keep: Annotated[int | None, typer.Option(min=1, help="Published versions to keep.  [default: all]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would go. Nothing does.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Allow a grace under an hour. Only if nothing runs.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what nothing names any more: files that no version needs, old rejected and superseded stagings; without a
    table also what lies beside them and nobody used within the grace.

    What readers see, and what anybody opened within the grace, stays. So does every file that is not understood.

    Examples: `hashkiln gc --dry-run`, `hashkiln gc sample__itq32 --keep 10 --grace 7d`
    """
    from ..tables.gc import gc as run

    found = run(table, duration(grace), keep, dry_run, force)
    if as_json:
        return show(found.model_dump(mode="json") | {"bytes": found.bytes}, True)
    _print_collected(found)


def _print_collected(found: Collected) -> None:
    for item in found.items:
        if found.dry_run or item.kind == "version":
            of = f" of {item.table}" if item.table and item.kind in ("version", "snapshot") else ""
            size = f", {item.bytes:,} bytes" if item.bytes else ""
            console.print(escape(f"{item.kind} {item.name}{of}{size}: {item.why}"), soft_wrap=True)
    for note in found.notes:
        console.print(escape(note), soft_wrap=True)
    counts: dict[str, int] = {}
    for item in found.items:
        counts[item.kind] = counts.get(item.kind, 0) + 1
    told = ", ".join(f"{kind}: {count:,}" for kind, count in counts.items()) or "nothing"
    console.print(f"{'Would go' if found.dry_run else 'Gone'}: {told}; {found.bytes:,} bytes")


@app.command()
def delete(
    dataset: Annotated[str, typer.Argument(help="The dataset of the rows.")],
    ids: Annotated[str, typer.Option(help="Ids, or keys, with commas between them, or a file of one a line.")],
    purge_after: Annotated[str, typer.Option(help="When no version may hold the rows any more: 30d.")] = "30d",
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking, as a script must.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete rows by id: at once from what readers see, and by a time, through `gc`, from all versions.

    Files of the source stay as they are; what reads them leaves the rows out from now on. This cannot be undone: on a
    terminal the rows are counted and confirmed first.

    Examples: `hashkiln delete mnist --ids 7,12`, `hashkiln delete mine --ids ids.txt --purge-after 14d --yes`
    """
    from ..tables.deletion import delete as run

    days = duration(purge_after)
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("no terminal to confirm the deletion on: pass --yes to delete without asking")
    from_file = "," not in ids and Path(ids).is_file()
    given = Path(ids).read_text().split("\n") if from_file else ids.split(",")
    names = [name.strip() for name in given if name.strip()]
    if not yes:
        _confirm(dataset, names)
    with progress() as report:
        found = run(dataset, names, days, report)
    if as_json:
        return show(found.model_dump(mode="json"), True)
    left_out = f"{found.rows:,} rows of {found.dataset}, {found.queries:,} of them drawn queries, are left out now"
    console.print(left_out, soft_wrap=True)
    for table, version in found.published.items():
        console.print(f"Published {table} {version} without them")
    console.print(f"Run `hashkiln gc` daily, and every version with them is gone by {found.gone_by}", soft_wrap=True)


def _confirm(dataset: str, names: list[str]) -> None:
    """Show what would be deleted, and ask. Exit 1 unless the answer is yes."""
    from ..tables.deletion import preview

    with progress() as report:
        found = preview(dataset, names, report)
    rows = f"{found.rows:,} row{'s' * (found.rows != 1)} in the files of {dataset}, for {len(names):,} ids"
    more = ", …" if len(found.examples) < max(found.rows, len(names)) else ""
    errors.print(escape(f"{rows}: {', '.join(found.examples)}{more}"), soft_wrap=True)
    typer.confirm("Delete for good, from every version?", abort=True, err=True)
