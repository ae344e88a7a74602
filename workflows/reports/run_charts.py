"""The charts of a run: retrieval, codes, training, and the history of the table."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from hashing.mapreduce import Epoch

from ..evaluation.registry import OVERSAMPLING
from ..records import Bits, Curves, Estimate, Measured
from .charts import TICKS, Chart, Series, heatmap, number
from .pages import Figure, figure, sentence
from .svg import svg

HEADLINE = (("map",), ("precision_at_100",), ("recall_reranked_x10", "recall_at_1000"), ("precision_radius_2",))
NOTHING: Mapping[str, Estimate] = MappingProxyType({})
UNIT = (0.0, 1.0)
MOST_BARS = 256


def retrieval(curves: Curves, measured: Measured) -> list[Figure]:
    """Return precision and recall by radius and by rank, recall after reranking by vectors, and distances."""
    radii = range(len(curves.precision))
    zero, left_out = "empty balls as 0", "empty balls left out"
    empty = [1 - share for share in curves.found]
    rule = "Within a radius, a query may find no row: an empty ball. "
    if len(empty) > 2:
        rule += f"Within radius 2, {100 * empty[2]:.1f} % of the balls are empty. "
    charts = [
        Chart(
            "Precision against recall",
            "recall",
            "precision",
            [
                Series(f"by radius, {zero}", curves.recall, curves.precision),
                Series(f"by radius, {left_out}", curves.recall, curves.found_precision, style=1),
                Series("at the first N ranks", curves.recall_at, curves.precision_at, style=3),
            ],
            note=f"{rule}Some papers count its precision as 0. Others leave the query out, which favours codes that "
            "find few rows. The first N ranks are never empty.",
            y_range=UNIT,
        ),
        Chart(
            "Within a Hamming radius",
            "radius",
            "share",
            [
                Series(f"precision, {zero}", radii, curves.precision),
                Series(f"precision, {left_out}", radii, curves.found_precision, style=1),
                Series("recall", radii, curves.recall, style=2),
                Series("empty balls", radii, empty, style=7),
            ],
            note="precision_radius_2, and so the gate, counts empty balls as 0.",
            y_range=UNIT,
        ),
    ]
    if curves.ranks:
        ranked = [
            Series("precision", curves.ranks, curves.precision_at),
            Series("recall", curves.ranks, curves.recall_at, style=2),
        ]
        note = "Values are averages over all orders of rows at equal distance."
        charts.append(Chart("At the first N ranks", "N", "share", ranked, note=note, log=True, y_range=UNIT))
    reranked = {
        f: measured.metrics[name] for f in OVERSAMPLING if (name := f"recall_reranked_x{f}") in measured.metrics
    }
    if reranked:
        found = list(reranked.values())
        one = Series(
            "recall", list(reranked), [e.value for e in found], [e.low for e in found], [e.high for e in found]
        )
        note = "Candidates, the nearest codes, are reranked by their vectors: x10 is 10 for each neighbour to find."
        names = [f"x{factor}" for factor in reranked]
        charts.append(
            Chart(
                "Recall after reranking",
                "candidates",
                "recall",
                [one],
                "lines",
                note,
                True,
                list(reranked),
                names,
                UNIT,
            )
        )
    return [figure(chart) for chart in charts + _distances(curves)]


def _distances(curves: Curves) -> list[Chart]:
    """Return the distances of relevant and of other rows; nothing if there are only rows of one kind."""
    relevant = np.array(curves.relevant_pairs, float)
    others = np.array(curves.pairs, float) - relevant
    distances = np.arange(len(relevant))
    if len(relevant) and relevant.sum() and others.sum():
        near, far = (float(counts @ distances / counts.sum()) for counts in (relevant, others))
        series = [
            Series(name, distances.tolist(), (counts / counts.sum()).tolist(), style=style)
            for name, counts, style in (("relevant rows", relevant, 4), ("other rows", others, 6))
        ]
        note = f"The mean distance from a query is {near:.1f} bits for relevant rows, {far:.1f} for others. "
        note += "The less the two areas overlap, the better the codes."
        return [Chart("Distances", "Hamming distance", "share of rows", series, "steps", note)]
    return []


def codes(bits: Bits | None) -> list[Figure]:
    """Return the activation and the correlation of bits."""
    figures = []
    if bits:
        figures.append(_activation(bits.balance))
    if bits and len(bits.correlation) > 1:
        last = len(bits.balance) - 1
        note = "Blue is positive, orange negative. The fainter, the better: each bit then adds information of its own."
        if last >= len(bits.correlation):
            step = -(-(last + 1) // len(bits.correlation))
            note += f" Each cell shows the strongest correlation among {step} x {step} pairs of bits."
        r = np.array(bits.correlation)
        strongest = sorted(((abs(r[i, j]), i, j) for i in range(len(r)) for j in range(i)), reverse=True)[:20]
        rows = [[str(i), str(j), number(float(r[i, j]), 3)] for _, i, j in strongest]
        picture = svg(heatmap((r - np.diag(np.diag(r))).tolist(), "bit", last))
        figures.append(Figure("Correlation of bits", picture, note, ["bit", "bit", "correlation"], rows))
    return figures


def _activation(balance: Sequence[float]) -> Figure:
    note = "Share of ones of each bit. 0.5 is best: the bit then carries the most information."
    if len(balance) <= MOST_BARS:
        bars = [Series("share of ones", range(len(balance)), balance)]
        return figure(Chart("Activation of bits", "bit", "share of ones", bars, "bars", note, y_range=UNIT, line=0.5))
    groups = np.array_split(np.array(balance), MOST_BARS // 2)
    starts = np.cumsum([0, *map(len, groups)])[:-1].tolist()
    mean, low, high = ([float(of(group)) for group in groups] for of in (np.mean, np.min, np.max))
    lines = [Series("mean of neighbouring bits", starts, mean, low, high)]
    return figure(Chart("Activation of bits", "bit", "share of ones", lines, note=note, y_range=UNIT, line=0.5))


def training(epochs: Sequence[Epoch], best: int | None) -> list[Figure]:
    """Return loss, score and learning rate by epoch; `best` is the selected epoch, if rows were held out."""
    names = {"loss": "training loss", "score": "map on held-out rows", "lr": "learning rate"}
    x, figures = [epoch["epoch"] for epoch in epochs], []
    for name, title in names.items():
        y: list[float | None] = [epoch[name] for epoch in epochs]  # type: ignore[literal-required]  # name is one of the keys
        if any(value is not None for value in y):
            upright = best if name == "score" else None
            ticks = x if len(x) <= TICKS else ()  # round numbers of few epochs have halves between them
            series = [Series(title, x, y)]
            figures.append(figure(Chart(sentence(title), "epoch", title, series, x_ticks=ticks, upright=upright)))
    return figures


def history_charts(before: Mapping[str, Mapping[str, float]], now: Mapping[str, Estimate] = NOTHING) -> list[Figure]:
    """Return each headline metric over versions, by name, and that of this run, if given, with its interval."""
    figures = []
    for name in headline(now or [name for metrics in before.values() for name in metrics]):
        known = {version: metrics[name] for version, metrics in before.items() if name in metrics}
        places = range(len(known) + bool(now))
        series = [Series("versions", places, [*known.values(), *[now[name].value for _ in places[len(known) :]]])]
        if now:
            one = now[name]
            series.append(Series("this run, 95 % interval", places[-1:], [one.value], [one.low], [one.high], 1))
        if len(places) > 1:
            names = [*known, *["this run"] * bool(now)]
            figures.append(
                figure(Chart(f"{name} over versions", "version", name, series, x_ticks=places, x_names=names))
            )
    return figures


def headline(measured: Collection[str]) -> list[str]:
    """Return the names of the metrics that sum up a version, of each alternative the first that was measured."""
    known = ([name for name in names if name in measured] for names in HEADLINE)
    return [names[0] for names in known if names]
