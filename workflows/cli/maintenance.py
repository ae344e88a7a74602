"""Commands that inspect and maintain tables: history, rollback, diff, compare, verify, gc, delete."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from hashing.names import counted

from . import complete
from .common import FAILED, console, errors, known_dataset, progress, show
from .options import AsJson, TableName, VersionName

if TYPE_CHECKING:
    from ..tables.gc import Collected
    from ..tables.history import ComparableTables, Difference

app = typer.Typer()
UNITS = {"m": 1 / 1440, "h": 1 / 24, "d": 1.0}  # days


def duration(text: str) -> float:
    """Return a duration such as 90m, 36h or 7d in days."""
    if not (found := re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text)):
        raise typer.BadParameter(f"expected a duration such as 90m, 36h or 7d, found {text!r}")
    return float(found[1]) * UNITS[found[2]]


@app.command()
def history(table: TableName, as_json: AsJson = False) -> None:
    """List the history of a table: published, staged and rejected versions with reasons, and rollbacks.

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
            "when (UTC)": event.when[:16].replace("T", " "),
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
    table: TableName,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="vN", help="Version to restore.  [default: the previous one]", autocompletion=complete.versions
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Publish an earlier version again. The history records it; the next new version gets the next free number.

    Examples: `hashkiln rollback sample__itq32`, `hashkiln rollback sample__itq32 --to v3`
    """
    from ..tables.history import rollback as run

    version = run(table, to)
    if as_json:
        return show({"table": table, "version": version}, True)
    console.print(f"{table}: readers see {version}")


@app.command()
def diff(
    table: TableName,
    a: Annotated[
        str, typer.Argument(help="A version: main, v3, staged-… or rejected-…", autocompletion=complete.versions)
    ],
    b: Annotated[str, typer.Argument(help="The version to compare it with.", autocompletion=complete.versions)],
    as_json: AsJson = False,
) -> None:
    """Compare two versions of a table: shards, rows, models and metrics.

    Example: `hashkiln diff sample__itq32 v1 v2`
    """
    from ..tables.history import diff as run

    found = run(table, a, b)
    if as_json:
        return show(found.model_dump(mode="json"), True)
    show(_diff_rows(found), False, f"{table}: {found.a} and {found.b}")
    for kind in ("added", "changed", "removed"):
        names: tuple[str, ...] = getattr(found, kind)
        shown = f": {', '.join(names[:5])}{', …' if len(names) > 5 else ''}" if names else ""
        console.print(f"shards {kind}: {len(names)}{escape(shown)}", soft_wrap=True)
    for version, measured in zip((found.a, found.b), found.measured_at, strict=True):
        if version != measured:
            console.print(f"{version} was not measured: its metrics are those of {measured}")
    if not found.comparable:
        console.print("Metrics are not comparable, because the protocols differ:")
        for version, protocol in zip((found.a, found.b), found.protocols, strict=True):
            console.print(f"  {version}: {escape(protocol or 'not measured')}", soft_wrap=True)


def _diff_rows(found: Difference) -> list[dict[str, str]]:
    rows = {"rows": tuple(f"{rows:,}" for rows in found.rows), "model": tuple(model[:12] for model in found.models)}
    if found.comparable:
        rows |= {
            name: tuple("" if value is None else f"{value:.4f}" for value in pair)
            for name, pair in found.metrics.items()
        }
    return [{"": name, found.a: one, found.b: other} for name, (one, other) in rows.items()]


@app.command()
def compare(
    dataset: Annotated[str, typer.Argument(help="A dataset with code tables.", autocompletion=complete.datasets)],
    as_json: AsJson = False,
) -> None:
    """Compare the code tables of a dataset across methods and code lengths.

    Metrics are comparable only within one protocol, so each protocol gets its own table.

    Example: `hashkiln compare mnist`
    """
    from ..tables.history import compare_tables as run

    groups = run(known_dataset(dataset))
    if as_json:
        return show([group.model_dump(mode="json") for group in groups], True)
    for group in groups:
        show(_comparison_rows(group), False, group.protocol or "not measured")
        for codes in group.codes:
            if codes.ranking:
                console.print(escape(f"{codes.table}: {codes.ranking}"), soft_wrap=True)
    if len(groups) > 1:
        console.print(f"{len(groups)} protocols: metrics are not comparable between the tables above.")


def _comparison_rows(group: ComparableTables) -> list[dict[str, str]]:
    """Return one row per property or metric, with one column per table."""
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
    table: TableName,
    version: VersionName = "main",
    deep: Annotated[bool, typer.Option("--deep", help="Also encode the source again and compare every bit.")] = False,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="With --deep, encode a sample of N source shards.  [default: all]", metavar="N"),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Replace damaged parts by encoding their source shards again.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every part of a version: file, size, SHA-256, rows and ids. Exits with 1 if there are problems.

    Examples: `hashkiln verify sample__itq32`, `hashkiln verify sample__itq32 --version v1 --deep --sample 100`
    """
    from ..tables.verify import verify as run

    if sample and not deep:
        raise typer.BadParameter("--sample needs --deep")
    with progress() as report:
        found = run(table, version, deep, sample, repair, report)
    if as_json:
        show(found.model_dump(mode="json"), True)
    else:
        for problem in found.problems:
            errors.print(f"[red]{escape(problem)}", soft_wrap=True)
        for note in found.notes:
            console.print(escape(note), soft_wrap=True)
        shards = counted(found.rechecked, "shard")
        compared = f", {counted(found.bits, 'bit')} of {shards} encoded again" if deep else ""
        near = f" (different, but within rounding of their threshold: {found.near:,})" if found.near else ""
        console.print(
            f"{found.table} {found.version}: {counted(found.parts, 'part')}, {counted(found.rows, 'row')}"
            f"{compared}{near}: {counted(len(found.problems), 'problem') if found.problems else 'no problems'}",
            soft_wrap=True,
        )
    if found.problems:
        raise typer.Exit(FAILED)


@app.command()
def gc(
    table: Annotated[
        str | None,
        typer.Argument(
            help="A code table.  [default: all tables and the rest of the warehouse]", autocompletion=complete.tables
        ),
    ] = None,
    grace: Annotated[str, typer.Option(help="Grace period: minimum age of what is deleted, such as 36h or 7d.")] = "7d",
    keep: Annotated[
        int | None, typer.Option(min=1, help="Number of published versions to keep.  [default: all]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted, and delete nothing.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Allow a grace period under an hour. Safe only while no run is active.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete unreferenced files, and old versions that were rejected or superseded.

    Without a table, also delete models, query sets and other files of the warehouse that were not used within the grace
    period. The published version, versions used within the grace period, and files of unknown kind are never deleted.

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
    summary = ", ".join(f"{kind}: {count:,}" for kind, count in counts.items()) or "nothing"
    console.print(f"{'Would delete' if found.dry_run else 'Deleted'}: {summary}; {found.bytes:,} bytes")


@app.command()
def delete(
    dataset: Annotated[str, typer.Argument(help="The dataset that holds the rows.", autocompletion=complete.datasets)],
    ids: Annotated[
        str, typer.Option("--ids", "--keys", help="Ids or keys separated by commas, or a file with one per line.")
    ],
    purge_after: Annotated[
        str, typer.Option(help="Time after which no version may hold the rows, such as 30d.")
    ] = "30d",
    yes: Annotated[bool, typer.Option("--yes", help="Delete without confirmation; required in scripts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete rows by id or key: from the published versions at once, and from all versions by a deadline, through `gc`.

    The source files do not change, but later runs skip the rows. This cannot be undone: on a terminal, the command
    shows the number of rows and asks for confirmation first.

    Examples: `hashkiln delete mnist --ids 7,12`, `hashkiln delete mine --keys keys.txt --purge-after 14d --yes`
    """
    from infra.settings import Settings

    from ..ingested import ingested
    from ..tables.deletion import delete as run

    days, dataset = duration(purge_after), ingested(known_dataset(dataset), Settings()).name
    if not yes and not sys.stdin.isatty():
        raise typer.BadParameter("no terminal to confirm the deletion: pass --yes to delete without confirmation")
    from_file = os.path.isfile(ids)  # False for a list that is too long for a path
    given = Path(ids).read_text().split("\n") if from_file else ids.split(",")
    names = [name.strip() for name in given if name.strip()]
    if not yes:
        _confirm(dataset, names)
    with progress() as report:
        found = run(dataset, names, days, report)
    if as_json:
        return show(found.model_dump(mode="json"), True)
    queries = f" ({counted(found.queries, 'sampled query', 'sampled queries')})" if found.queries else ""
    console.print(f"Deleted {counted(found.rows, 'row')} of {found.dataset}{queries}", soft_wrap=True)
    for table, version in found.published.items():
        console.print(f"Published {table} {version} without the deleted rows")
    for name in found.embedded:
        console.print(
            f"Wrote the vectors of {name} without these rows; `hashkiln gc` deletes the earlier files after its grace "
            "period",
            soft_wrap=True,
        )
    console.print(f"Run `hashkiln gc` daily to remove them from every version by {found.gone_by}", soft_wrap=True)


def _confirm(dataset: str, names: list[str]) -> None:
    """Show the rows to delete and ask for confirmation. Exits with 1 unless the answer is yes."""
    from ..tables.deletion import preview

    with progress() as report:
        found = preview(dataset, names, report)
    named = counted(len(names), found.named_by.removesuffix("s"))
    rows = f"{counted(found.rows, 'row')} in the files of {dataset}, for {named}"
    more = ", …" if len(found.examples) < max(found.rows, len(names)) else ""
    errors.print(escape(f"{rows}: {', '.join(found.examples)}{more}"), soft_wrap=True)
    typer.confirm("Delete permanently, from every version?", abort=True, err=True)
