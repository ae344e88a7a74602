"""Commands that run: fit, encode, evaluate, reindex; and the history of what they made."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import (
    AsJson,
    Bad,
    BadRows,
    Bits,
    By,
    Ceilings,
    Code,
    DatasetName,
    Floors,
    From,
    K,
    Losses,
    MaxDrift,
    MethodName,
    Pretrained,
    Queries,
    Refit,
    RefitPolicy,
    Relevance,
    Seed,
    Set,
    Ties,
    assigned,
    checked,
    console,
    prefect_home,
    progress,
    show,
    specification,
)

if TYPE_CHECKING:
    from ..records import RunOutcome
    from ..spec import Spec

app = typer.Typer()


@app.command()
def fit(
    dataset: DatasetName,
    source: From = None,
    method: MethodName = "itq",
    bits: Bits = 32,
    seed: Seed = 0,
    parameters: Set = None,
    pretrained: Pretrained = None,
    code: Code = None,
    refit: RefitPolicy = Refit.never,
    bad_rows: BadRows = Bad.refuse,
    as_json: AsJson = False,
) -> None:
    """Fit a hash function, or find the one that was fitted before.

    Example: `hashkiln fit --dataset mnist --method itq --bits 64 --set n_iter=100`
    """
    from infra.settings import Settings
    from storage import models

    from ..reports.run import trained

    spec = specification(
        source, dataset=dataset, method=method, bits=bits, seed=seed, parameters=parameters, pretrained=pretrained,
        code=code, refit=refit, bad_rows=bad_rows,
    )  # fmt: skip
    model = _line(spec, "fit")
    epochs = models.training(Settings().warehouse_url, model.digest)
    training = {"training": epochs if as_json else trained(epochs)} if epochs else {}
    show({"model": model.digest, "seconds": round(model.seconds, 2), **training}, as_json, spec.code_name)


@app.command()
def encode(
    dataset: DatasetName,
    source: From = None,
    method: MethodName = "itq",
    bits: Bits = 32,
    seed: Seed = 0,
    parameters: Set = None,
    pretrained: Pretrained = None,
    code: Code = None,
    refit: RefitPolicy = Refit.never,
    bad_rows: BadRows = Bad.refuse,
    as_json: AsJson = False,
) -> None:
    """Fit and encode, and stage the codes on a branch. Nothing is published.

    Example: `hashkiln encode --dataset sample --method lsh --bits 64`
    """
    spec = specification(
        source, dataset=dataset, method=method, bits=bits, seed=seed, parameters=parameters, pretrained=pretrained,
        code=code, refit=refit, bad_rows=bad_rows,
    )  # fmt: skip
    staged = _line(spec, "stage")
    name = staged.base if staged.unchanged else staged.branch
    found = {"table": staged.table, "version": name, "rows": staged.rows, "encoded": staged.encoded}
    show(found, as_json, staged.table)


def _line(spec: Spec, last: str) -> Any:
    """The stages up to one, without a flow: what the last one gave."""
    from infra.executors import connect
    from infra.settings import Settings

    from ..datasets import ingest as bring
    from ..reindex import fitting, staging

    settings = Settings()
    with progress() as report:
        bring(spec, settings, report)
        executor = connect(settings, report)
        model = fitting.fit(spec, settings, executor)
        if last == "fit":
            return model
        staged = staging.stage(spec, settings, executor, model)
        if reason := fitting.refit_reason(spec, staged):
            staged = staging.stage(spec, settings, executor, fitting.fit(spec, settings, executor, reason))
        return staged


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
            by_id = ties is Ties.by_id
            found = external.evaluate_external(codes, labels, query_codes, query_labels, bits, queries, by_id, report)
        else:
            found = run(table or "", version, beside, protocol, report)
    if as_json:
        show(found.model_dump(mode="json"), True)
    else:
        show(metric_rows(found), False, f"{codes or f'{table}, {version}'}: {found.protocol}; overlap: {found.overlap}")


@app.command()
def reindex(
    dataset: DatasetName,
    source: From = None,
    method: MethodName = "itq",
    bits: Bits = 32,
    seed: Seed = 0,
    parameters: Set = None,
    pretrained: Pretrained = None,
    code: Code = None,
    refit: RefitPolicy = Refit.never,
    bad_rows: BadRows = Bad.refuse,
    relevance: By = Relevance.auto,
    neighbours: K = 100,
    queries: Queries = 1000,
    floor: Floors = None,
    ceiling: Ceilings = None,
    max_loss: Losses = None,
    max_drift: MaxDrift = 0.5,
    force: Annotated[str, typer.Option(metavar="REASON", help="Publish whatever the gate says, for this reason.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done. Nothing is written.")] = False,
    as_json: AsJson = False,
) -> None:
    """Encode what changed, measure it beside what is published, and publish it if it is good enough.

    Examples: `hashkiln reindex --dataset sample`, `hashkiln reindex --dataset sample --dry-run`,
    `hashkiln reindex --dataset mnist --from ~/mnist --method itq --bits 32 --floor precision_radius_2=0.3`,
    `hashkiln reindex --dataset sample --refit drift --max-loss map=0.01 --ceiling health.constant_bits=0`
    """
    spec = specification(
        source, dataset=dataset, method=method, bits=bits, seed=seed, parameters=parameters, pretrained=pretrained,
        code=code, refit=refit,
        protocol={"relevance": relevance, "neighbours": neighbours, "queries": queries},
        gate={"floors": assigned(floor), "ceilings": assigned(ceiling), "max_loss": assigned(max_loss), "force": force},
        max_drift=max_drift, bad_rows=bad_rows,
    )  # fmt: skip
    if dry_run:
        return _print_outlook(spec, as_json)
    outcome = _standing(spec) or _run(spec)
    if as_json:
        return show(outcome.model_dump(mode="json"), True)
    if outcome.unchanged:
        return console.print(f"Nothing to do: {outcome.table} {outcome.version} holds the codes of all rows.")
    metrics = json.loads(_version_properties(outcome.table, outcome.version)["metrics"])
    show({name: f"{value:.4f}" for name, value in metrics.items()}, False, outcome.table)
    console.print(f"Published {outcome.table} {outcome.version}: {outcome.rows:,} rows, {outcome.encoded:,} encoded")
    console.print(f"Report: {outcome.report}", soft_wrap=True)


def _standing(spec: Spec) -> RunOutcome | None:
    """The outcome of a run with nothing to do, without Prefect, whose embedded server takes ten seconds to start.

    A Prefect server that was named is told of every run.
    """
    from infra.settings import Settings

    from ..datasets import known
    from ..reindex import planning

    settings = Settings()
    told = bool(os.environ.get("PREFECT_API_URL"))
    here = spec.dataset == "sample" or known(spec.dataset, settings)
    return planning.standing(spec, settings) if here and not told else None


def _run(spec: Spec) -> RunOutcome:
    prefect_home()
    from ..reindex import flow as flows

    with progress() as report:
        flows.show(report)
        return flows.reindex(spec)


def _print_outlook(spec: Spec, as_json: bool) -> None:
    from infra.settings import Settings

    from ..reindex.planning import outlook

    found = outlook(spec, Settings())
    if as_json:
        return show(found.model_dump(mode="json"), True)
    rows = {"table": f"{found.table}, after {found.base}"}
    for name in ("added", "changed", "stale", "removed", "found"):
        names = getattr(found.plan, name)
        rows[f"shards {name}"] = f"{len(names):,}" + (f": {', '.join(names[:3])}" if names else "")
    rows |= {
        "shards kept": f"{len(found.plan.kept):,}",
        "rows to encode": f"{found.rows:,}",
        "bytes to encode": f"{found.bytes:,}",
        "time to encode": "no estimate yet" if found.seconds is None else f"{found.seconds:,.1f} s",
        "fit": f"{'yes' if found.fit else 'no'}: {found.reason}",
    }
    show(rows, False, "plan")


def _version_properties(table: str, version: str) -> dict[str, str]:
    from infra.settings import Settings

    from ..tables.opening import open_table

    return open_table(Settings(), table).version(version).properties
