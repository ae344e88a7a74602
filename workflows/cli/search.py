"""Commands for those who use a table: search and export."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from .common import AsJson, checked, console, progress, show

app = typer.Typer()
Table = Annotated[str, typer.Argument(help="A code table, such as mnist__itq32.")]
Name = Annotated[str, typer.Option("--version", help="main, v3, staged-…, rejected-…")]


class Format(StrEnum):
    npy = "npy"
    faiss = "faiss"


@app.command()
def search(
    table: Table,
    queries: Annotated[
        str,
        typer.Option(help="A split of the table's dataset, or .fvecs, .bvecs, .npy, or Parquet with its columns."),
    ],
    out: Annotated[str, typer.Option(help="Parquet file to write: query, rank (from 1), id, distance.")],
    k: Annotated[int, typer.Option(help="Rows a query.")] = 10,
    radius: Annotated[int | None, typer.Option(help="Instead: all rows within this Hamming distance.")] = None,
    rerank: Annotated[
        int, typer.Option(help="Rank so many nearest codes again, by Euclidean distance of the vectors.")
    ] = 0,
    asymmetric: Annotated[bool, typer.Option("--asymmetric", help="Keep the queries real-valued.")] = False,
    version: Name = "main",
    as_json: AsJson = False,
) -> None:
    """Find the rows nearest to each query. The version is pinned while it runs.

    No row is left out: a query that is itself a row of the table finds itself. Euclidean distances are squared.

    Examples: `hashkiln search sample__itq32 --queries query --k 10 --out found.parquet`,
    `hashkiln search mnist__itq32 --queries mine.npy --k 10 --rerank 500 --out found.parquet`
    """
    from ..reader import Search
    from ..search import search as run

    with checked():
        asked = Search(k=k, radius=radius, rerank=rerank, asymmetric=asymmetric)
    with progress() as report:
        found = run(table, queries, out, asked, version, report)
    if as_json:
        return show(found.model_dump(mode="json"), True)
    console.print(
        f"{found.table} {found.version}: {found.rows:,} rows for {found.queries:,} queries by {found.distance} "
        f"distance, in {found.seconds:.1f} s: {found.out}",
        soft_wrap=True,
    )


@app.command()
def export(
    table: Table,
    to: Annotated[str, typer.Option(help="Folder to make. It appears whole or not at all.")],
    form: Annotated[Format, typer.Option("--format", help="Arrays, or a Faiss binary index.")] = Format.npy,
    version: Name = "main",
    as_json: AsJson = False,
) -> None:
    """Write a version for other tools: codes.npy, ids.npy and labels.npy, or index.faiss; and export.json.

    Examples: `hashkiln export sample__itq32 --to exported`, `hashkiln export sample__itq32 --to index --format faiss`
    """
    from ..export import export as run

    found: dict[str, Any] = run(table, to, form.value, version)
    show(found, as_json, f"{table}, {found['version']}")
