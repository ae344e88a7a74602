"""Charts as drawings: marks (paths and texts) that svg.py and pdf.py write."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

WIDTH, HEIGHT = 360.0, 230.0  # a page scales a chart to its column
LEFT, RIGHT, TOP, BOTTOM, LINE = 58.0, 14.0, 8.0, 36.0, 15.0
COLOURS = ("#1f5fbf", "#c2410c", "#15803d", "#7e22ce", "#0e7490", "#be185d", "#854d0e", "#52525b")
INK, MUTED, GRID = "#1c2330", "#525b6b", "#dde1e8"
SHAPES = (
    (16, 0.0, 3.0),
    (4, 0.5, 3.8),
    (3, 0.0, 4.0),
    (4, 0.0, 4.0),
    (3, 1.5, 4.0),
    (5, 0.0, 3.8),
)  # corners, turn, size
APART = 14.0  # between the marks of a series; points that are nearer are joined without a mark
SHADES = 8  # of a heat map, of each sign
TICKS = 7  # of an axis, at most


class Series(NamedTuple):
    """Points of a chart, joined in order. A y of None, NaN or infinity is left out."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float] = ()  # the band around the points
    high: Sequence[float] = ()
    style: int = 0  # colour and shape of the marks


class Chart(NamedTuple):
    """A chart of lines, of bars, or of steps."""

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    kind: Literal["lines", "bars", "steps"] = "lines"
    note: str = ""  # what to know when reading it
    log: bool = False  # of the x axis
    x_ticks: Sequence[float] = ()  # by default round numbers
    x_names: Sequence[str] = ()  # of the ticks, by default their numbers
    y_range: tuple[float, float] | None = None  # by default that of the points
    line: float | None = None  # y of a dashed line
    upright: float | None = None  # x of a dashed line


class Path(NamedTuple):
    """A polyline or, if closed, a polygon. `look` lists the styles."""

    points: Sequence[tuple[float, float]]
    style: str
    closed: bool = False
    title: str = ""  # shown under the pointer


class Text(NamedTuple):
    """A line of text with its start, middle or end at (x, y)."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"] = "middle"
    turned: bool = False  # a quarter to the left


class Drawing(NamedTuple):
    width: float
    height: float
    marks: list[Path | Text]


class Look(NamedTuple):
    stroke: str = ""
    fill: str = ""
    width: float = 0.0
    opacity: float = 1.0
    dash: str = ""


Place = Callable[[float, float], tuple[float, float]]


def look(style: str) -> Look:
    """Return the look of a style in a file: axis, grid, dash, or the letter of a kind followed by a number.

    l, a and m are a line, an area and a mark of a colour; p and n are positive and negative shades of a heat map. After
    a blank, a style may name its series, so that a page can hide it.
    """
    style = style.partition(" ")[0]
    kind, number = style[0], style[1:]
    if style in ("axis", "grid", "dash"):
        return Look({"axis": INK, "grid": GRID, "dash": MUTED}[style], "", 0.8, dash="4 3" if style == "dash" else "")
    if kind in "pn":
        return Look(fill=COLOURS[kind == "n"], opacity=int(number) / SHADES)
    colour = COLOURS[int(number)]
    return {"l": Look(colour, "", 1.6), "a": Look("", colour, opacity=0.16), "m": Look("", colour)}[kind]


def draw(chart: Chart, legend: bool = True) -> Drawing:
    """Return the marks of a chart: axes, ticks, a legend if there are several series, and the points."""
    marks: list[Path | Text]
    marks, top = _legend(chart) if legend and len(chart.series) > 1 else ([], TOP)
    height = HEIGHT + top - TOP
    end, base = WIDTH - RIGHT, height - BOTTOM
    across: Callable[[float], float] = math.log10 if chart.log else float
    xs = [across(x) for series in chart.series for x in series.x]
    ys = [y for series in chart.series for y in (*series.y, *series.low, *series.high) if y is not None]
    ys = [y for y in ys if math.isfinite(y)] or [0.0, 1.0]
    margin = 0.6 if chart.kind == "bars" or min(xs) == max(xs) else 0.0
    left, right = min(xs) - margin, max(xs) + margin
    left = 0.0 if 0 < left < right / 4 else left  # rather than shortly after 0
    low, high = chart.y_range or _around(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        up = min(max((y - low) / (high - low), 0.0), 1.0)
        return LEFT + (across(x) - left) / (right - left) * (end - LEFT), base - up * (base - top)

    for tick in ticks(low, high):
        y = place(chart.series[0].x[0], tick)[1]
        marks += [Path([(LEFT, y), (end, y)], "grid"), Text(LEFT - 6, y + 4, _short(tick, high), "end")]
    shown = chart.x_ticks or (powers(left, right) if chart.log else ticks(left, right))
    last = 0.0
    for tick, name in zip(shown, chart.x_names or map(number, shown), strict=True):
        x, half = place(tick, low)[0], text_width(name) / 2
        marks.append(Path([(x, base), (x, base + 4)], "axis"))
        if x - half > last:  # else it would touch the name before it
            marks.append(Text(min(x, WIDTH - half), base + 15, name))
            last = x + half + 4
    marks += [
        Path([(LEFT, base), (end, base)], "axis"),
        Text((LEFT + end) / 2, height - 5, chart.x_label),
        Text(11, (top + base) / 2, chart.y_label, turned=True),
    ]
    if chart.line is not None:
        y = place(chart.series[0].x[0], chart.line)[1]
        marks.append(Path([(LEFT, y), (end, y)], "dash"))
    if chart.upright is not None:
        x = place(chart.upright, low)[0]
        marks.append(Path([(x, base), (x, top)], "dash"))
    for series in chart.series:
        marks += _bars(series, place, base) if chart.kind == "bars" else _line(series, place, chart, base)
    return Drawing(WIDTH, height, marks)


def _line(series: Series, place: Place, chart: Chart, base: float) -> list[Path | Text]:
    colour, marks = f"{series.style % len(COLOURS)} s{series.style}", list[Path | Text]()
    upper, lower = (
        [place(x, y) for x, y in zip(series.x, bound, strict=False) if math.isfinite(y)]
        for bound in (series.high, series.low)
    )
    if len(upper) > 1:
        marks.append(Path([*upper, *lower[::-1]], f"a{colour}", closed=True))
    elif upper:  # the interval of a single point
        marks.append(Path([*upper, *lower], f"l{colour}"))
    at = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None and math.isfinite(y)]
    points = [place(x, y) for x, y in at]
    if chart.kind == "steps" and len(points) > 1:
        half = (points[1][0] - points[0][0]) / 2
        points = [(x + side, y) for x, y in points for side in (-half, half)]
        marks.append(Path([(points[0][0], base), *points, (points[-1][0], base)], f"a{colour}", closed=True))
    if len(points) > 1:
        marks.append(Path(points, f"l{colour}"))
    if chart.kind == "lines":
        names, last = dict(zip(chart.x_ticks, chart.x_names, strict=False)), (-math.inf, 0.0)
        for (x, y), point in zip(at, points, strict=True):
            if math.dist(point, last) >= APART:
                title = f"{series.name}: {chart.x_label} {names.get(x, number(x))}, {chart.y_label} {number(y, 4)}"
                marks.append(Path(shape(point, series.style), f"m{colour}", closed=True, title=title))
                last = point
    return marks


def _bars(series: Series, place: Place, base: float) -> list[Path | Text]:
    marks: list[Path | Text] = []
    for x, y in zip(series.x, series.y, strict=True):
        if y is not None:
            (left, top), (right, _) = place(x - 0.4, y), place(x + 0.4, y)
            box = [(left, base), (left, top), (right, top), (right, base)]
            marks.append(Path(box, f"m{series.style}", closed=True, title=f"{number(x)}: {number(y, 4)}"))
    return marks


def heatmap(values: Sequence[Sequence[float]], label: str, last: int) -> Drawing:
    """Return a picture of a square matrix of values from -1 to 1. The names of its rows go from 0 to `last`."""
    side = HEIGHT - TOP - BOTTOM
    right, end, cell = LEFT + side, TOP + side, side / len(values)

    def box(x: float, y: float, side: float, shade: int) -> Path:
        corners = [(x, y), (x + side, y), (x + side, y + side), (x, y + side)]
        return Path(corners, f"{'p' if shade > 0 else 'n'}{abs(shade)}", closed=True)

    marks: list[Path | Text] = [
        box(LEFT + j * cell, TOP + i * cell, cell, shade)
        for i, row in enumerate(values)
        for j, value in enumerate(row)
        if (shade := round(value * SHADES))
    ]
    marks += [
        Path([(LEFT, TOP), (right, TOP), (right, end), (LEFT, end)], "axis", closed=True),
        *(Text(x, end + 15, name) for x, name in ((LEFT, "0"), (right, str(last)))),
        *(Text(LEFT - 6, y, name, "end") for y, name in ((TOP + 8, "0"), (end, str(last)))),
        Text((LEFT + right) / 2, HEIGHT - 5, label),
        Text(11, (TOP + end) / 2, label, turned=True),
    ]
    for place, shade in enumerate(range(SHADES, -SHADES - 1, -2)):
        x, y = right + 24, TOP + place * side / (SHADES + 1)
        marks += [box(x, y, 16, shade), Text(x + 24, y + 12, f"{shade / SHADES:+g}" if shade else "0", "start")]
    return Drawing(WIDTH, HEIGHT, marks)


def whisker(low: float, value: float, high: float, most: float) -> Drawing:
    """Return a small picture of an interval beside 0, on an axis from -most to most."""
    low, value, high = (60 + 56 * x / most for x in (low, value, high))
    marks: list[Path | Text] = [
        Path([(60, 0), (60, 16)], "dash"),
        Path([(low, 8), (high, 8)], "l0"),
        Path(shape((value, 8), 0), "m0", closed=True),
    ]
    return Drawing(120, 16, marks)


def _legend(chart: Chart) -> tuple[list[Path | Text], float]:
    """Return the marks of the legend, and where the chart below it begins."""
    marks, x, y = list[Path | Text](), LEFT, TOP + 8
    for one in chart.series:
        if x > LEFT and x + 18 + text_width(one.name) > WIDTH:
            x, y = LEFT, y + LINE
        colour = one.style % len(COLOURS)
        if chart.kind == "steps":
            box = [(x, y + 1), (x, y - 8), (x + 14, y - 8), (x + 14, y + 1)]
            marks += [Path(box, f"a{colour}", closed=True), Path(box, f"l{colour}")]
        else:
            marks += [
                Path([(x, y - 4), (x + 14, y - 4)], f"l{colour}"),
                Path(shape((x + 7, y - 4), one.style), f"m{colour}", closed=True),
            ]
        marks.append(Text(x + 18, y, one.name, "start"))
        x += 30 + text_width(one.name)
    return marks, y + 10


def shape(at: tuple[float, float], style: int) -> list[tuple[float, float]]:
    """Return the outline of a mark. Colours and shapes have different periods: the first 24 styles all differ."""
    corners, turn, size = SHAPES[style % len(SHAPES)]
    angles = [2 * math.pi * (i + turn) / corners - math.pi / 2 for i in range(corners)]
    return [(at[0] + size * math.cos(angle), at[1] + size * math.sin(angle)) for angle in angles]


def _around(values: Sequence[float]) -> tuple[float, float]:
    """Return a range that holds the values with a margin, but no negative numbers for positive ones."""
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return max(low - margin, 0.0) if low >= 0 else low - margin, high + margin


def ticks(low: float, high: float) -> list[float]:
    """Return at most TICKS multiples of 1, 2 or 5 times a power of ten, from low to high.

    >>> ticks(0, 1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    power = 10.0 ** math.floor(math.log10((high - low) / TICKS))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if (high - low) / step < TICKS)
    return [round(i * step, 12) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Return the powers of ten between two logarithms."""
    return [10.0**i for i in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]


def number(value: float, digits: int = 3) -> str:
    """Return a number in few characters.

    >>> number(0.25), number(40000), number(2.0)
    ('0.25', '40,000', '2')
    """
    if not math.isfinite(value):
        return str(value)
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.{digits}g}"


def _short(tick: float, high: float) -> str:
    """Return a number beside an axis that ends at `high`, in at most six characters: more would reach the axis title.

    >>> _short(250_000, 1.2e6), _short(250_000, 5e5), _short(25_000, 5e4)
    ('0.25 M', '250 k', '25,000')
    """
    unit, name = (1e6, " M") if high >= 1e6 else (1e3, " k") if high >= 1e5 else (1.0, "")
    return number(tick / unit) + name * (tick != 0)


def text_width(text: str) -> float:
    """Return the width of a text of 11 units, about."""
    return 5.9 * len(text)
