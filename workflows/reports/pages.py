"""HTML pages from templates. A page is one file: style, pictures and data are in it, and nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

from .charts import COLOURS, Chart, draw, number
from .svg import svg

DARK = ("#86b6ff", "#ff9f6b", "#6fdc98", "#cfa5ff", "#5fd0e4", "#ff8fc4", "#e3bd5c", "#b4bcc9")  # COLOURS on dark pages
MOST_ROWS = 200  # of the table of a figure; of more points, some are left out


class Figure(NamedTuple):
    """A picture with its title, and the same numbers as a table for those who do not see it."""

    title: str
    svg: str
    note: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


def render(template: str, **values: Any) -> str:
    """Return a page of the templates of this package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("workflows.reports")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"sentence": sentence, "breakable": breakable}
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    known = {"now": now, "hashkiln": version("hashkiln"), "colours": list(zip(COLOURS, DARK, strict=True))}
    return environment.get_template(template).render(known | values)


def breakable(name: str) -> Any:
    """Return a name as HTML in which a line may end after each underscore."""
    from markupsafe import Markup, escape

    return escape(name).replace("_", Markup("_<wbr>"))


def sentence(text: str) -> str:
    """Return a text with a capital first letter."""
    return text[:1].upper() + text[1:]


def figure(chart: Chart, legend: bool = True) -> Figure:
    """Return a chart with its table."""
    head, rows = chart_table(chart)
    step = -(-len(rows) // MOST_ROWS) or 1
    cells = [[value if isinstance(value, str) else number(value, 4) for value in row] for row in rows[::step]]
    thinned = [f"{head[0]} (1 of {step} points)"] if step > 1 else head[:1]
    return Figure(chart.title, svg(draw(chart, legend)), chart.note, [*thinned, *head[1:]], cells)


def chart_table(chart: Chart) -> tuple[list[str], list[list[Any]]]:
    """Return the points of a chart as a table: its head, and rows of series, x, y and bounds of the band."""
    bands = any(len(series.low) for series in chart.series)
    names = dict(zip(chart.x_ticks, chart.x_names, strict=False))
    rows = [
        [series.name, names.get(x, x), y, *([series.low[i], series.high[i]] if len(series.low) else ["", ""] * bands)]
        for series in chart.series
        for i, (x, y) in enumerate(zip(series.x, series.y, strict=True))
        if y is not None
    ]
    return ["series", chart.x_label, chart.y_label, *["low", "high"] * bands], rows
