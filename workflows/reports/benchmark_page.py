"""The figures of a benchmark: a page to explore them, and files for a paper. A method looks the same in all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hashing.mapreduce import Array
from hashing.methods import catalogue

from ..benchmark.grid import Row
from ..evaluation.registry import METRICS
from .charts import COLOURS, Chart, Drawing, Path, Series, draw, shape
from .pages import chart_table, figure, render, sentence
from .pdf import pdf
from .svg import svg

SECONDS = {"fit_seconds": "seconds to fit", "encode_rows_per_second": "rows encoded per second"}
LOG = 4  # lengths whose ratio is larger are drawn on a logarithmic axis


class Panel(NamedTuple):
    """A chart, and the selection that shows it: of a metric, or of a length."""

    chart: Chart
    name: str  # of its files
    metric: str = ""
    bits: int = 0


def grid_page(rows: Sequence[Row]) -> str:
    """Return one HTML page of all figures, with selectors of the metric, the length and the methods."""
    styles = styles_of(rows)
    groups: list[dict[str, Any]] = [
        {
            "title": f"{of[0].dataset}, protocol {of[0].protocol}: {relevance}",
            "about": [f"{of[0].rows:,} rows; {rest or relevance}.", f"Measured on {_machines(of)}."],
            "figures": [(panel, figure(panel.chart, legend=False)) for panel in panels(of, styles)],
            "methods": _methods(of),
        }
        for (*_, found), of in groups_of(rows).items()
        for relevance, _, rest in [found.removeprefix("relevant: ").partition("; ")]
    ]
    shown: list[Panel] = [panel for group in groups for panel, _ in group["figures"]]
    legend = [(name, style, svg(_swatch(style)), learns_from(name)) for name, style in styles.items()]
    return render(
        "benchmark.html",
        groups=groups,
        legend=legend,
        metrics=list(dict.fromkeys(panel.metric for panel in shown if panel.metric)),
        bits=sorted({panel.bits for panel in shown if panel.bits}, reverse=True),
        about={**{name: metric.about for name, metric in METRICS.items()}, **SECONDS},
    )


def figure_files(rows: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
    """Yield each figure as SVG, PDF and CSV, with its file name."""
    styles = styles_of(rows)
    for of in groups_of(rows).values():
        for panel in panels(of, styles):
            drawing = draw(panel.chart)
            yield f"{panel.name}.svg", svg(drawing, file=True).encode()
            yield f"{panel.name}.pdf", pdf(drawing)
            head, table = chart_table(panel.chart)
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([head, *table])
            yield f"{panel.name}.csv", text.getvalue().encode()


def styles_of(rows: Sequence[Row]) -> dict[str, int]:
    """Return the style of each method."""
    return {name: style for style, name in enumerate(sorted({row.method for row in rows}))}


def groups_of(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Return the rows that may be compared, by dataset, protocol and relevance."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.protocol, row.relevance), []).append(row)
    return groups


def panels(rows: Sequence[Row], styles: dict[str, int]) -> Iterator[Panel]:
    """Yield the charts of comparable rows: metrics by length, and for each length precision by recall and by rank."""
    bits = sorted({row.bits for row in rows})
    relevant = "labels" if "label" in rows[0].relevance else "neighbours"
    prefix = "-".join(dict.fromkeys([rows[0].dataset, rows[0].protocol, relevant]))  # bdnn has both kinds
    log, methods = bits[-1] / bits[0] > LOG, {row.method for row in rows}
    for metric in [*rows[0].metrics, *SECONDS]:
        series = [_by_length(rows, name, metric, style) for name, style in styles.items() if name in methods]
        about = METRICS[metric].about if metric in METRICS else SECONDS.get(metric, metric)
        yield Panel(Chart(sentence(about), "bits", metric, series, log=log, x_ticks=bits), f"{prefix}-{metric}", metric)
    for length in bits:
        chosen = [row for row in rows if row.bits == length]
        recall = _curves(chosen, styles, lambda row: row.curves.recall, lambda row: row.curves.precision)
        ranks = _curves(chosen, styles, lambda row: row.curves.ranks, lambda row: row.curves.precision_at)
        note = "Within Hamming radius 0, 1, …; empty balls count as 0."
        title = f"Precision against recall, {length} bits"
        chart = Chart(title, "recall", "precision", recall, note=note, y_range=(0, 1))
        yield Panel(chart, f"{prefix}-pr-{length}", bits=length)
        if any(series.x for series in ranks):
            chart = Chart(f"Precision at the first N ranks, {length} bits", "N", "precision", ranks, log=True)
            yield Panel(chart, f"{prefix}-ranks-{length}", bits=length)


def _by_length(rows: Sequence[Row], name: str, metric: str, style: int) -> Series:
    """Return a metric of a method by length: the mean over seeds, and a band of one standard deviation."""
    values: dict[int, list[float]] = {}
    for row in sorted((row for row in rows if row.method == name), key=lambda row: row.bits):
        values.setdefault(row.bits, []).append(row.metrics[metric] if metric in row.metrics else getattr(row, metric))
    low, mean, high = _band([np.array(value) for value in values.values()])
    return Series(name, list(values), mean, low, high, style)


def _curves(
    rows: Sequence[Row],
    styles: dict[str, int],
    x: Callable[[Row], Sequence[float]],
    y: Callable[[Row], Sequence[float]],
) -> list[Series]:
    """Return a curve of each method: the mean over seeds, and a band of one standard deviation."""
    found = []
    for name, style in styles.items():
        if mine := [row for row in rows if row.method == name]:
            low, mean, high = _band(list(np.transpose([y(row) for row in mine])))
            across = np.mean([x(row) for row in mine], axis=0).tolist()
            found.append(Series(name, across, mean, low, high, style))
    return found


def _band(values: Sequence[Array]) -> tuple[list[float], list[float], list[float]]:
    """Return the lower bound, mean and upper bound of each array; no bounds if all have one value."""
    mean = [float(value.mean()) for value in values]
    if all(len(value) == 1 for value in values):
        return [], mean, []
    spread = [float(value.std(ddof=1)) if len(value) > 1 else 0.0 for value in values]
    return (
        [m - s for m, s in zip(mean, spread, strict=True)], mean, [m + s for m, s in zip(mean, spread, strict=True)],
    )  # fmt: skip


def _methods(rows: Sequence[Row]) -> list[list[str]]:
    """Return a line of each method: what it learns from, its hyper-parameters, seeds and times."""
    lines = []
    for name in sorted({row.method for row in rows}):
        mine = [row for row in rows if row.method == name]
        seconds = sorted(row.fit_seconds for row in mine)
        lines.append(
            [
                name,
                learns_from(name),
                _distinct(", ".join(f"{k}={v}" for k, v in (row.effective or row.parameters).items()) for row in mine),
                str(len({row.seed for row in mine})),
                " to ".join(dict.fromkeys(f"{bound:,.2f}" for bound in (seconds[0], seconds[-1]))),
            ]
        )
    return lines


def learns_from(name: str) -> str:
    """Return whether a method learns from labels or from vectors only; empty if this release does not know it."""
    known = catalogue().get(name)
    return "" if known is None else "labels" if known.supervised else "vectors"


def _machines(rows: Sequence[Row]) -> str:
    """Return the machines and the versions of the libraries, in words."""
    machines = []
    for row in rows:
        versions = (f"{name} {version}" for name, version in row.versions.items() if name != "machine")
        machines.append(", ".join([row.hardware, *versions]))
    return _distinct(machines)


def _distinct(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(filter(None, texts)))


def _swatch(style: int) -> Drawing:
    """Return the line and the mark of a style, for a legend."""
    line = Path([(0, 7), (28, 7)], f"l{style % len(COLOURS)}")
    return Drawing(28, 14, [line, Path(shape((14, 7), style), f"m{style % len(COLOURS)}", closed=True)])
