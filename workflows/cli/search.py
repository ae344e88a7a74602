"""Commands that read a table: search and export."""

from typing import Annotated, Any, Literal

import typer

from hashing.names import counted

from .common import checked, console, progress, show
from .options import AsJson, TableName, VersionName

app = typer.Typer()
LABELS = 20  # to show

Target = Literal[
    "npy", "faiss-flat", "faiss-ivf", "faiss-hnsw", "pgvector", "duckdb", "milvus", "lance", "opensearch", "qdrant"
]


@app.command()
def search(
    table: TableName,
    queries: Annotated[
        str,
        typer.Option(
            help="A split of the dataset, or a file: .fvecs, .bvecs, .npy, or Parquet with the dataset's columns."
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            help="Parquet file to write, with columns query, rank (from 1), id and distance; if rows have keys, also "
            "key and query_key."
        ),
    ],
    k: Annotated[int, typer.Option(help="Number of rows per query.")] = 10,
    radius: Annotated[
        int | None, typer.Option(help="Find all rows within this Hamming distance, instead of the k nearest.")
    ] = None,
    rerank: Annotated[int, typer.Option(help="Rerank the N nearest codes by their vectors; 0: off.", metavar="N")] = 0,
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Compare real-valued queries with binary codes.")
    ] = False,
    version: VersionName = "main",
    as_json: AsJson = False,
) -> None:
    """Find the rows nearest to each query.

    A query that is also a row of the table finds itself. Euclidean distances are squared; cosine is 1 - cos. All
    queries are answered from one version, even if another is published meanwhile.

    Examples: `hashkiln search sample__itq32 --queries query --k 10 --out found.parquet`,
    `hashkiln search mnist__itq32 --queries mine.npy --k 10 --rerank 500 --out found.parquet`
    """
    from ..reader import Search
    from ..search import search as run

    with checked():
        options = Search(k=k, radius=radius, rerank=rerank, asymmetric=asymmetric)
    with progress() as report:
        found = run(table, queries, out, options, version, report)
    if as_json:
        return show(found.model_dump(mode="json"), True)
    console.print(
        f"{found.table} {found.version}: {counted(found.rows, 'row')} for {counted(found.queries, 'query', 'queries')} "
        f"by {found.distance} distance, in {found.seconds:.1f} s: {found.out}",
        soft_wrap=True,
    )


@app.command()
def export(
    table: TableName,
    to: Annotated[Target, typer.Option(help="The engine that reads the export; npy: plain arrays.")],
    out: Annotated[str, typer.Option(help="New folder to write to. It appears only when complete.")],
    version: VersionName = "main",
    as_json: AsJson = False,
) -> None:
    """Export a version for another engine, in the form that its bulk loader reads.

    The export to opensearch is for Elasticsearch as well. export.json describes the export, and docs/how-to/export.md
    shows how to load and search it. If rows have keys, the export has them too.

    Examples: `hashkiln export sample__itq32 --to npy --out exported`,
    `hashkiln export sample__itq32 --to pgvector --out exported`
    """
    from ..checks import check_outputs
    from ..export import export_version

    check_outputs(folder=out)
    found: dict[str, Any] = export_version(table, to, out, version)
    if as_json:
        return show(found, True)
    if len(labels := found["vocabulary"]) > LABELS:
        found["vocabulary"] = f"{', '.join(map(str, labels[:LABELS]))}, …: {counted(len(labels), 'label')}"
    show({name: value for name, value in found.items() if value != ()}, False)
