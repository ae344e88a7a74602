"""Commands that run one stage of the pipeline: fit, encode, evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from . import complete
from .common import checked, progress, show
from .options import AsJson, K, Precision, Queries, Relevance, Specify, VersionName, specification, takes

if TYPE_CHECKING:
    from ..context import Context
    from ..spec import Spec

app = typer.Typer()


@app.command()
@takes(specification)
def fit(specify: Specify, as_json: AsJson = False) -> None:
    """Fit a hash function, or reuse an earlier fit of the same rows and options.

    Example: `hashkiln fit --dataset mnist --method itq --bits 64 --set n_iter=100`
    """
    from infra.settings import Settings
    from storage import models

    from ..reindex import pipeline
    from ..reindex.fitting import fit as fit_model
    from ..reports.run import trained

    spec = specify()
    with _opened(spec) as context:
        model = pipeline.call(fit_model, context)
    epochs = models.training_epochs(Settings().warehouse_url, model.digest)
    training = {"training": epochs if as_json else trained(epochs)} if epochs else {}
    show({"model": model.digest, "seconds": round(model.seconds, 2), **training}, as_json, spec.code_name)


@app.command()
@takes(specification)
def encode(specify: Specify, precision: Precision = "float32", as_json: AsJson = False) -> None:
    """Fit a hash function and encode the dataset to a branch, without publishing it.

    Example: `hashkiln encode --dataset sample --method lsh --bits 64`
    """
    from ..reindex.pipeline import fit_and_stage

    spec = specify(precision=precision)
    with _opened(spec) as context:
        staged = fit_and_stage(context)
    name = staged.base if staged.unchanged else staged.branch
    found = {"table": staged.table, "version": name, "rows": staged.rows, "encoded": staged.encoded}
    show(found, as_json, staged.table)


@contextmanager
def _opened(spec: Spec) -> Iterator[Context]:
    """Yield the context of a run without a flow, and show its progress."""
    from infra.executors import connect
    from infra.settings import Settings

    from ..reindex.pipeline import open_run

    settings = Settings()
    with progress() as report:
        yield open_run(spec, settings, connect(settings, report), report)


@app.command()
def evaluate(
    table: Annotated[
        str | None, typer.Argument(help="A code table, such as mnist__itq32.", autocompletion=complete.tables)
    ] = None,
    version: VersionName = "main",
    beside: Annotated[
        str | None,
        typer.Option(
            help="Compare with another version, on the rows that both have.", autocompletion=complete.versions
        ),
    ] = None,
    relevance: Relevance = "auto",
    neighbours: K = 100,
    queries: Queries = 1000,
    codes: Annotated[
        str | None, typer.Option(help="Codes from another tool instead of a table, as .npy: packed uint8, bool, or ±1.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Labels of --codes, as .npy: (n,) classes or (n, c) multi-hot.")
    ] = None,
    query_codes: Annotated[
        str | None, typer.Option(help="Query codes, as .npy.  [default: sampled rows of --codes]")
    ] = None,
    query_labels: Annotated[str | None, typer.Option(help="Labels of --query-codes, as .npy.")] = None,
    bits: Annotated[
        int | None, typer.Option(min=1, help="Code length in bits, if packed codes have padding bits.")
    ] = None,
    ties: Annotated[
        Literal["expectation", "by-id"],
        typer.Option(help="Order of rows at equal distance: the expectation over all orders, or by id."),
    ] = "expectation",
    asymmetric: Annotated[
        bool, typer.Option("--asymmetric", help="Also rank the codes by real-valued queries: map_asymmetric.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a version of a code table, or codes from another tool.

    Examples: `hashkiln evaluate sample__itq32`, `hashkiln evaluate mnist__itq32 --version v2 --beside v1`,
    `hashkiln evaluate --codes codes.npy --labels labels.npy`, `hashkiln evaluate mnist__itq32 --ties by-id`
    """
    from ..checks import refused
    from ..evaluation import external
    from ..evaluation.flow import evaluate_version as run
    from ..reports.run import metric_rows
    from ..spec import Protocol

    if bool(table) == bool(codes) or bool(codes) != bool(labels):
        raise typer.BadParameter("pass either TABLE, or --codes FILE with --labels FILE")
    of_table = beside or version != "main" or neighbours != 100 or asymmetric
    if codes and (of_table or relevance in ("neighbours", "graded")):
        raise typer.BadParameter(
            "--version, --beside, --neighbours, --asymmetric and --relevance neighbours or graded need a TABLE, not "
            "--codes"
        )
    if table and (query_codes or query_labels or bits):
        raise typer.BadParameter("--query-codes, --query-labels and --bits need --codes, not a TABLE")
    if missing := [path for path in (codes, labels, query_codes, query_labels) if path and not Path(path).is_file()]:
        raise typer.BadParameter(f"no such file: {', '.join(missing)}")
    with checked():
        protocol = Protocol(
            relevance=relevance, neighbours=neighbours, queries=queries, ties=ties, asymmetric=asymmetric
        )
    with progress() as report:
        if codes and labels:
            with refused():
                found = external.evaluate_files(codes, labels, query_codes, query_labels, bits, queries, ties, report)
        else:
            found = run(table or "", version, beside, protocol, report)
    if as_json:
        show(found.model_dump(mode="json"), True)
    else:
        show(metric_rows(found), False, f"{codes or f'{table}, {version}'}: {found.protocol}; overlap: {found.overlap}")
