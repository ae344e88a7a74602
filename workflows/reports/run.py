"""The report of a run, as a self-contained HTML page and as Markdown: verdict, metrics, codes, queries and lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple

from hashing.mapreduce import Epoch
from storage import models, warehouse
from storage.files import filesystem

from ..context import Context
from ..evaluation.examples import examples
from ..evaluation.registry import METRICS
from ..records import Estimate, Example, Measured, Report, Staged, Verdict
from ..reindex.planning import staged_version
from ..spec import Spec, digest
from ..tables.history import metrics_of_versions
from . import run_charts
from .charts import whisker
from .examples import Seen, by_kind, seen
from .lineage import base, lineage, rate
from .pages import render
from .svg import svg

NO_TIMES: Mapping[str, float] = MappingProxyType({})


class Surroundings(NamedTuple):
    """What the page of a run shows beside its results."""

    versions: Mapping[str, Mapping[str, float]] = MappingProxyType({})  # metrics of the published ones, same protocol
    lineage: Mapping[str, str] = MappingProxyType({})
    examples: Sequence[Example] = ()
    seen: Seen = Seen({}, {})
    name: str = ""  # of the version, once it is published


ALONE = Surroundings()


def write_report(
    context: Context, staged: Staged, report: Report, verdict: Verdict, times: Mapping[str, float] = NO_TIMES
) -> str:
    """Write the report of a staged version and return its URL. `times` has the seconds of the stages before.

    Two runs with the same plan stage the same branch, so the file name contains a digest of the run. Repeating a run
    overwrites its own page.
    """
    spec, epochs = context.spec, models.training_epochs(context.warehouse, staged.model.digest)
    run = digest(*(value.model_dump(mode="json") for value in (spec, staged, report, verdict)))[:12]
    url = warehouse.REPORT.url(context.warehouse, table=staged.table, page=f"{staged.branch}-{run}")
    table = context.open_table()
    version = staged_version(table, staged)
    parts = table.parts(version.snapshot_id)
    found = examples(context, table, version)
    around = Surroundings(
        metrics_of_versions(table, report.protocol),
        lineage(context, staged, version, len(parts), times),
        found,
        seen(context, found, parts.values()),
        table.next_name() if verdict.passed else "",
    )
    filesystem.write_bytes(url, run_page(spec, staged, report, verdict, epochs, around).encode())
    return url


def run_page(
    spec: Spec,
    staged: Staged,
    report: Report,
    verdict: Verdict,
    epochs: Sequence[Epoch],
    around: Surroundings = ALONE,
) -> str:
    """Return the report as an HTML page without external resources."""
    best = _best(epochs)
    sections = {"figures": "Retrieval and codes", "metrics": "Metrics"}
    sections |= {"training": "Training"} if epochs else {}
    sections |= {"queries": "Queries"} if around.examples else {}
    return render(
        "run.html",
        spec=spec,
        staged=staged,
        report=report,
        verdict=verdict,
        word=word(verdict),
        name=around.name,
        lead=lead(spec, staged, report),
        sections=[*sections.items(), ("lineage", "Lineage")],
        tiles=tiles(report),
        metrics=_metrics(report),
        partial=bool(report.comparison and report.comparison.rows < report.measured.rows),
        history=run_charts.history_charts(around.versions, report.measured.metrics),
        figures=run_charts.retrieval(report.curves, report.measured) + run_charts.codes(report.bits),
        training=run_charts.training(epochs, best["epoch"] if best else None),
        trained=trained(epochs),
        examples=by_kind(around.examples, around.seen).items(),
        lineage=around.lineage.items(),
    )


def word(verdict: Verdict) -> str:
    """Return the verdict as one word."""
    return "rejected" if not verdict.passed else "passed by force" if verdict.reasons else "passed"


def lead(spec: Spec, staged: Staged, report: Report) -> str:
    """Return a run in one or two sentences: what was made, and how it compares."""
    made = f"{staged.rows:,} rows of {spec.dataset}, encoded to {spec.method.bits} bits by {spec.method.method}."
    if not (comparison := report.comparison):
        return made  # the notes of the gate say why
    change, _ = _change("map", comparison.differences["map"])
    return f"{made} Compared with {comparison.version} on {comparison.rows:,} common rows: map {change}."


def tiles(report: Report) -> list[dict[str, str]]:
    """Return the headline metrics, each with its interval and its change."""
    found = []
    for name in run_charts.headline(report.measured.metrics):
        estimate, change, verdict = report.measured.metrics[name], "", ""
        if report.comparison and name in report.comparison.differences:
            change, verdict = _change(name, report.comparison.differences[name])
            change += f" {'since' if verdict == 'same' else 'than'} {report.comparison.version}"
        found.append(
            {
                "name": name,
                "value": f"{estimate.value:.4f}",
                "interval": f"{estimate.low:.4f} to {estimate.high:.4f}",
                "about": METRICS[name].about,
                "change": change,
                "verdict": verdict,
            }
        )
    return found


def _change(name: str, difference: Estimate) -> tuple[str, str]:
    """Return a difference in words, and whether it is better, worse or neither."""
    if difference.low <= 0 <= difference.high:
        return f"{difference.value:+.4f}, no clear change", "same"
    better = (difference.value > 0) == (METRICS[name].better == "greater")
    verdict = "better" if better else "worse"
    return f"{difference.value:+.4f}, {verdict}", verdict


def _metrics(report: Report) -> list[dict[str, str]]:
    """Return the rows of the table of metrics, with a picture of each difference."""
    differences = report.comparison.differences if report.comparison else {}
    bounds = [abs(bound) for d in differences.values() for bound in (d.low, d.high) if isfinite(bound)]
    most = max(bounds, default=0) or 1.0
    rows = []
    for name, estimate in report.measured.metrics.items():
        row = dict.fromkeys(("common", "published", "difference", "whisker", "change", "verdict"), "")
        row |= {"metric": name, "about": METRICS[name].about, "staged": str(estimate)}
        if report.comparison and name in differences:  # estimates of a quantizer are not compared
            d = differences[name]
            change, verdict = _change(name, d)
            row |= {
                "common": str(report.comparison.staged.metrics[name]),
                "published": str(report.comparison.published.metrics[name]),
                "difference": str(d),
                "whisker": svg(whisker(d.low, d.value, d.high, most)) if isfinite(d.low + d.high) else "",
                "change": change.partition(", ")[2],
                "verdict": verdict,
            }
        rows.append(row)
    return rows


def metric_rows(report: Report) -> list[dict[str, Any]]:
    """Return one row per metric: over all rows, and over the rows that the published version has too."""
    comparison = report.comparison
    table = []
    for name, estimate in report.measured.metrics.items():
        row: dict[str, Any] = {"metric": name, "staged": str(estimate)}
        if comparison:
            compared = name in comparison.differences
            row["staged, common rows"] = _value(comparison.staged, name) if compared else ""
            row[f"{comparison.version}, common rows"] = _value(comparison.published, name) if compared else ""
            row["difference"] = str(comparison.differences[name]) if compared else ""
        table.append(row)
    return table


def _value(measured: Measured, name: str) -> str:
    estimate: Estimate = measured.metrics[name]
    return f"{estimate.value:.4f}"


def run_markdown(spec: Spec, staged: Staged, report: Report, verdict: Verdict, epochs: Sequence[Epoch]) -> str:
    """Return a short summary of the run in Markdown."""
    lines = [
        f"# {staged.table}: {word(verdict) if verdict.passed else '**rejected**'}",
        lead(spec, staged, report),
        f"{staged.rows:,} rows, {staged.encoded:,} encoded in this run{rate(staged)}, "
        f"model `{staged.model.digest[:12]}` ({staged.model.reason}), base version: {base(staged)}.",
        *([f"Training: {trained(epochs)}."] if epochs else []),
        f"Protocol: {report.protocol}.",
        f"Query overlap: {report.overlap}.",
        *(f"- failed check: {reason}" for reason in verdict.reasons),
        *(f"- {note}" for note in verdict.notes),
    ]
    return "\n\n".join(lines)


def trained(epochs: Sequence[Epoch]) -> str:
    """Return a one-line summary of training, empty if there are no epochs."""
    if not epochs:
        return ""
    last, seconds = epochs[-1], sum(epoch["seconds"] for epoch in epochs)
    summary = f"{len(epochs)} epochs of {last['rows']:,} rows in {seconds:,.1f} s, loss {last['loss']:.4f}"
    if (best := _best(epochs)) is None:
        return summary
    return f"{summary}; selected epoch {best['epoch']}, the best on held-out rows (map {best['score']:.4f})"


def _best(epochs: Sequence[Epoch]) -> Epoch | None:
    """Return the selected epoch, the first with the best score; None if no rows were held out."""
    scored = [epoch for epoch in epochs if epoch["score"] is not None]
    return max(scored, key=lambda epoch: epoch["score"] or 0) if scored else None
