"""The report of a run, as a self-contained HTML page and as Markdown: metrics, comparison, verdict of the gate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from hashing.mapreduce import Epoch
from storage import models, warehouse
from storage.files import filesystem

from ..context import Context
from ..records import Curves, Estimate, Measured, Report, Staged, Verdict
from ..spec import Spec, digest

BLUE, RED = "#1f5fbf", "#b3261e"


def write_report(context: Context, staged: Staged, report: Report, verdict: Verdict) -> str:
    """Write the report of a staged version and return its URL.

    Two runs with the same plan stage the same branch, so the file name contains a digest of the run. Repeating a run
    overwrites its own page.
    """
    spec, epochs = context.spec, models.training_epochs(context.warehouse, staged.model.digest)
    run = digest(*(value.model_dump(mode="json") for value in (spec, staged, report, verdict)))[:12]
    url = warehouse.REPORT.url(context.warehouse, table=staged.table, page=f"{staged.branch}-{run}")
    filesystem.write_bytes(url, run_page(spec, staged, report, verdict, epochs).encode())
    return url


def run_page(spec: Spec, staged: Staged, report: Report, verdict: Verdict, epochs: Sequence[Epoch]) -> str:
    """Return the report as an HTML page without external resources."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("workflows.reports"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("run.html").render(
        spec=spec,
        staged=staged,
        report=report,
        verdict=verdict,
        rows=metric_rows(report),
        plot=plot(report.curves),
        trained=trained(epochs),
        training_plot=training_plot(epochs) if epochs else "",
        now=datetime.now(UTC).isoformat(timespec="seconds"),
    )


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
    word = "passed" if verdict.passed else "**rejected**"
    lines = [
        f"# {staged.table}: {word}",
        f"{staged.rows:,} rows, {staged.encoded:,} encoded in this run{_rate(staged)}, "
        f"model `{staged.model.digest[:12]}` ({staged.model.reason}), published before: {staged.base}.",
        *([f"Training: {trained(epochs)}."] if epochs else []),
        f"Protocol: {report.protocol}.",
        f"Query overlap: {report.overlap}.",
        *(f"- failed check: {reason}" for reason in verdict.reasons),
        *(f"- {note}" for note in verdict.notes),
    ]
    return "\n\n".join(lines)


def _rate(staged: Staged) -> str:
    seconds = staged.encode_seconds
    return f" in {seconds:,.1f} s ({staged.encoded / seconds:,.0f} rows/s)" if staged.encoded and seconds else ""


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


def training_plot(epochs: Sequence[Epoch]) -> str:
    """Return plots of loss, score and learning rate by epoch as HTML, without plotly.js, which `plot` includes."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    best = _best(epochs)
    titles = {"loss": "training loss", "score": "map on held-out rows", "lr": "learning rate"}
    if not best:
        del titles["score"]
    figure = make_subplots(1, len(titles), subplot_titles=tuple(titles.values()))
    x = [epoch["epoch"] for epoch in epochs]
    for column, name in enumerate(titles, 1):
        y = [epoch[name] for epoch in epochs]  # type: ignore[literal-required]
        figure.add_trace(go.Scatter(x=x, y=y, mode="lines+markers", line={"color": BLUE}), 1, column)
    if best:
        figure.add_vline(best["epoch"], line_dash="dot", line_color=RED, row=1, col=2)
    figure.update_layout(height=320, template="plotly_white", margin={"t": 40, "b": 40}, showlegend=False)
    figure.update_xaxes(title_text="epoch")
    html: str = figure.to_html(full_html=False, include_plotlyjs=False)
    return html


def plot(curves: Curves) -> str:
    """Return precision-recall plots, also by radius and by rank, as HTML that includes plotly.js."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    titles = ("precision against recall, by Hamming radius", "within a Hamming radius", "at the first N ranks")
    figure = make_subplots(1, 3, subplot_titles=titles)
    radii = list(range(len(curves.precision)))
    both = {"x": curves.recall, "y": curves.precision, "text": [f"radius {radius}" for radius in radii]}
    figure.add_trace(go.Scatter(**both, mode="lines+markers", showlegend=False), 1, 1)
    blue, red = ({"line": {"color": color}, "mode": "lines"} for color in (BLUE, RED))
    figure.add_trace(go.Scatter(x=radii, y=curves.precision, name="precision", **blue), 1, 2)
    figure.add_trace(go.Scatter(x=radii, y=curves.recall, name="recall", **red), 1, 2)
    figure.add_trace(go.Scatter(x=curves.ranks, y=curves.precision_at, showlegend=False, **blue), 1, 3)
    figure.add_trace(go.Scatter(x=curves.ranks, y=curves.recall_at, showlegend=False, **red), 1, 3)
    figure.update_layout(height=420, template="plotly_white", margin={"t": 40, "b": 40})
    figure.update_xaxes(title_text="recall", col=1).update_yaxes(title_text="precision", col=1)
    figure.update_xaxes(title_text="radius", col=2).update_xaxes(title_text="N", type="log", col=3)
    html: str = figure.to_html(full_html=False, include_plotlyjs=True)
    return html
