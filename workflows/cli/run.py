"""Commands that run a part of the pipeline: fit, encode, evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from .common import (
    AsJson,
    By,
    K,
    Queries,
    Relevance,
    Specify,
    Ties,
    checked,
    progress,
    show,
    takes_specification,
)

if TYPE_CHECKING:
    from ..context import Context
    from ..spec import Spec

app = typer.Typer()


@app.command()
@takes_specification
def fit(specify: Specify, as_json: AsJson = False) -> None:
    """Fit a hash function, or find the one that was fitted before.

    Example: `hashkiln fit --dataset mnist --method itq --bits 64 --set n_iter=100`
    """
    from infra.settings import Settings
    from storage import models

    from ..reindex.fitting import fit as fit_model
    from ..reports.run import trained

    spec = specify()
    with _opened(spec) as context:
        model = fit_model(context)
    epochs = models.training_epochs(Settings().warehouse_url, model.digest)
    training = {"training": epochs if as_json else trained(epochs)} if epochs else {}
    show({"model": model.digest, "seconds": round(model.seconds, 2), **training}, as_json, spec.code_name)


@app.command()
@takes_specification
def encode(specify: Specify, as_json: AsJson = False) -> None:
    """Fit and encode, and stage the codes on a branch. Nothing is published.

    Example: `hashkiln encode --dataset sample --method lsh --bits 64`
    """
    from ..reindex.pipeline import encode as encode_dataset

    spec = specify()
    with _opened(spec) as context:
        staged = encode_dataset(context)
    name = staged.base if staged.unchanged else staged.branch
    found = {"table": staged.table, "version": name, "rows": staged.rows, "encoded": staged.encoded}
    show(found, as_json, staged.table)


@contextmanager
def _opened(spec: Spec) -> Iterator[Context]:
    """The context of a run outside a flow, with its progress shown."""
    from infra.executors import connect
    from infra.settings import Settings

    from ..reindex.pipeline import open_run

    settings = Settings()
    with progress() as report:
        yield open_run(spec, settings, connect(settings, report), report)


@app.command()
def evaluate(
    table: Annotated[str | None, typer.Argument(help="A code table, such as mnist__itq32.")] = None,
    version: Annotated[str, typer.Option(help="main, v3, staged-…, rejected-…")] = "main",
    beside: Annotated[str | None, typer.Option(help="Another version, on the rows that both have.")] = None,
    relevance: By = Relevance.auto,
    neighbours: K = 100,
    queries: Queries = 1000,
    codes: Annotated[str | None, typer.Option(help="No table: codes made elsewhere, .npy, packed uint8 or ±1.")] = None,
    labels: Annotated[str | None, typer.Option(help="Their labels, .npy: (n,) classes or (n, c) multi-hot.")] = None,
    query_codes: Annotated[str | None, typer.Option(help="Codes of the queries; rows are drawn without.")] = None,
    query_labels: Annotated[str | None, typer.Option(help="Labels of the queries.")] = None,
    bits: Annotated[int | None, typer.Option(min=1, help="Bits of packed codes, if less than their bytes.")] = None,
    ties: Annotated[Ties, typer.Option(help="Rows at one distance: in any order alike, or in that of ids.")] = (
        Ties.expectation
    ),
    as_json: AsJson = False,
) -> None:
    """Measure a version of a code table, or codes made elsewhere.

    Examples: `hashkiln evaluate sample__itq32`, `hashkiln evaluate mnist__itq32 --version v2 --beside v1`,
    `hashkiln evaluate --codes codes.npy --labels labels.npy`, `hashkiln evaluate mnist__itq32 --ties by-id`
    """
    from ..evaluation import external
    from ..evaluation.flow import evaluate_version as run
    from ..reports.run import metric_rows
    from ..spec import Protocol

    if bool(table) == bool(codes) or bool(codes) != bool(labels):
        raise typer.BadParameter("expected either TABLE, or --codes FILE with --labels FILE")
    of_table = beside or version != "main" or neighbours != 100
    if codes and (of_table or relevance in (Relevance.neighbours, Relevance.graded)):
        raise typer.BadParameter(
            "expected --version, --beside, --neighbours and --relevance with a TABLE, found them with --codes"
        )
    if table and (query_codes or query_labels or bits):
        raise typer.BadParameter(
            "expected --query-codes, --query-labels and --bits with --codes, found them with TABLE"
        )
    with checked():
        protocol = Protocol(relevance=relevance.value, neighbours=neighbours, queries=queries, ties=ties.value)
    with progress() as report:
        if codes and labels:
            found = external.evaluate_files(codes, labels, query_codes, query_labels, bits, queries, ties.value, report)
        else:
            found = run(table or "", version, beside, protocol, report)
    if as_json:
        show(found.model_dump(mode="json"), True)
    else:
        show(metric_rows(found), False, f"{codes or f'{table}, {version}'}: {found.protocol}; overlap: {found.overlap}")
