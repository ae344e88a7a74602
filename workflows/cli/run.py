"""Commands that run: fit, encode, evaluate, reindex; and the history of what they made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    AsJson,
    Bits,
    By,
    Code,
    DatasetName,
    From,
    K,
    MethodName,
    Queries,
    Refit,
    RefitPolicy,
    Relevance,
    Seed,
    Set,
    assignment,
    console,
    prefect_home,
    progress,
    show,
    specification,
)

if TYPE_CHECKING:
    from workflows.spec import Spec

app = typer.Typer()


@app.command()
def fit(
    dataset: DatasetName,
    source: From = None,
    method: MethodName = "itq",
    bits: Bits = 32,
    seed: Seed = 0,
    parameters: Set = None,
    code: Code = None,
    refit: RefitPolicy = Refit.never,
    as_json: AsJson = False,
) -> None:
    """Fit a hash function, or find the one that was fitted before.

    Example: `hashkiln fit --dataset mnist --method itq --bits 64 --set n_iter=100`
    """
    spec = specification(
        source, dataset=dataset, method=method, bits=bits, seed=seed, parameters=parameters, code=code, refit=refit
    )
    model = _line(spec, "fit")
    show({"model": model.digest, "seconds": round(model.seconds, 2)}, as_json, spec.code_name)


@app.command()
def encode(
    dataset: DatasetName,
    source: From = None,
    method: MethodName = "itq",
    bits: Bits = 32,
    seed: Seed = 0,
    parameters: Set = None,
    code: Code = None,
    refit: RefitPolicy = Refit.never,
    as_json: AsJson = False,
) -> None:
    """Fit and encode, and stage the codes on a branch. Nothing is published.

    Example: `hashkiln encode --dataset sample --method lsh --bits 64`
    """
    spec = specification(
        source, dataset=dataset, method=method, bits=bits, seed=seed, parameters=parameters, code=code, refit=refit
    )
    staged = _line(spec, "stage")
    name = staged.base if staged.unchanged else staged.branch
    found = {"table": staged.table, "version": name, "rows": staged.rows, "encoded": staged.encoded}
    show(found, as_json, staged.table)


def _line(spec: Spec, last: str) -> Any:
    """The stages up to one, without a flow: what the last one gave."""
    from infra.executors import connect
    from infra.settings import Settings
    from workflows import stages
    from workflows.ingest import ingest as bring

    settings = Settings()
    with progress() as report:
        bring(spec, settings, report)
        executor = connect(settings, report)
        model = stages.fit(spec, settings, executor)
        return model if last == "fit" else stages.stage(spec, settings, executor, model)


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
    bits: Annotated[int | None, typer.Option(help="Bits of packed codes, if they do not fill their bytes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a version of a code table, or codes made elsewhere.

    Examples: `hashkiln evaluate sample__itq32`, `hashkiln evaluate mnist__itq32 --version v2 --beside v1`,
    `hashkiln evaluate --codes codes.npy --labels labels.npy`
    """
    from workflows import foreign
    from workflows.evaluate import evaluate as run
    from workflows.report import rows
    from workflows.spec import Protocol

    if bool(table) == bool(codes) or bool(codes) != bool(labels):
        raise typer.BadParameter("expected either TABLE, or --codes FILE with --labels FILE")
    if codes and (beside or version != "main" or relevance in (Relevance.neighbours, Relevance.graded)):
        raise typer.BadParameter("expected --version, --beside and --relevance with a TABLE, found them with --codes")
    if table and (query_codes or query_labels or bits):
        raise typer.BadParameter(
            "expected --query-codes, --query-labels and --bits with --codes, found them with TABLE"
        )
    protocol = Protocol(relevance=relevance.value, neighbours=neighbours, queries=queries)
    with progress() as report:
        if codes and labels:
            found = foreign.evaluate(codes, labels, query_codes, query_labels, bits, queries, report)
        else:
            found = run(table or "", version, beside, protocol, report)
    if as_json:
        show(found.model_dump(mode="json"), True)
    else:
        show(rows(found), False, f"{codes or f'{table}, {version}'}: {found.protocol}; overlap: {found.overlap}")


@app.command()
def reindex(
    dataset: DatasetName,
    source: From = None,
    method: MethodName = "itq",
    bits: Bits = 32,
    seed: Seed = 0,
    parameters: Set = None,
    code: Code = None,
    refit: RefitPolicy = Refit.never,
    relevance: By = Relevance.auto,
    neighbours: K = 100,
    queries: Queries = 1000,
    floor: Annotated[list[str] | None, typer.Option(metavar="METRIC=VALUE", help="A gate's floor. Repeatable.")] = None,
    max_loss: Annotated[float, typer.Option(help="Loss in map beyond the bootstrap interval that is let pass.")] = 0.0,
    force: Annotated[str, typer.Option(metavar="REASON", help="Publish whatever the gate says, for this reason.")] = "",
    as_json: AsJson = False,
) -> None:
    """Encode what changed, measure it beside what is published, and publish it if it is good enough.

    Examples: `hashkiln reindex --dataset sample`,
    `hashkiln reindex --dataset mnist --from ~/mnist --method itq --bits 32 --floor precision_radius_2=0.3`
    """
    spec = specification(
        source, dataset=dataset, method=method, bits=bits, seed=seed, parameters=parameters, code=code, refit=refit,
        protocol={"relevance": relevance, "neighbours": neighbours, "queries": queries},
        gate={"floors": dict(assignment(text) for text in floor or ()), "max_loss": max_loss, "force": force},
    )  # fmt: skip
    prefect_home()
    from workflows import reindex as flows

    with progress() as report:
        flows.show(report)
        outcome = flows.reindex(spec)
    if as_json:
        return show(outcome.model_dump(mode="json"), True)
    if outcome.unchanged:
        return console.print(f"Nothing to do: {outcome.table} {outcome.version} holds the codes of all rows.")
    metrics = json.loads(_version_properties(outcome.table, outcome.version)["metrics"])
    show({name: f"{value:.4f}" for name, value in metrics.items()}, False, outcome.table)
    console.print(f"Published {outcome.table} {outcome.version}: {outcome.rows:,} rows, {outcome.encoded:,} encoded")
    console.print(f"Report: {outcome.report}", soft_wrap=True)


def _version_properties(table: str, version: str) -> dict[str, str]:
    from infra.settings import Settings
    from workflows.stages import open_table

    return open_table(Settings(), table).version(version).properties


@app.command()
def history(table: str, as_json: AsJson = False) -> None:
    """All versions of a code table: published, staged and rejected.

    Example: `hashkiln history sample__itq32`
    """
    from datetime import UTC, datetime

    from infra.settings import Settings
    from workflows.stages import open_table

    opened = open_table(Settings(), table)
    published = opened.version().name
    found = [
        {
            "version": version.name,
            "published": "now" if version.name == published else "",
            "when": datetime.fromtimestamp(version.timestamp_ms / 1000, UTC).isoformat(timespec="seconds"),
            "rows": version.properties.get("rows", ""),
            "model": version.properties.get("model", "")[:12],
            "map": format(json.loads(version.properties.get("metrics", "{}")).get("map", float("nan")), ".4f"),
            "by": version.properties.get("by", ""),
        }
        for version in opened.versions()
    ]
    show(found, as_json, f"{table}: readers see {published}")
