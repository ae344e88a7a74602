"""The report of a benchmark as Markdown tables, beside published figures."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hashing.bits import n_bytes

from ..benchmark.grid import Row
from ..benchmark.published import BDNN, LIKE, PUBLISHED
from ..evaluation.registry import METRICS

TABLES = (  # one table for each of these metrics
    "precision_radius_2", "map_dhn", "map", "map_asymmetric", "map_asymmetric_sigmoid", "ndcg_at_10", "ndcg_at_100",
    "map_trapezoid", "estimator.map", "estimator.recall_reranked_x1",
)  # fmt: skip
SECONDS = {"fit_seconds": "Fit time, seconds", "fit_cpu_seconds": "Processor time of the fit, seconds"}


def grid_markdown(rows: Sequence[Row], seconds: str = "fit_seconds") -> str:
    """Return the report in Markdown: library versions, then one table per dataset, protocol and metric.

    `seconds` is one of SECONDS.
    """
    lines = [f"Measured with {'; '.join(sorted({_versions(row) for row in rows}))}."]
    for dataset, protocol, relevance in _distinct((row.dataset, row.protocol, row.relevance) for row in rows):
        mine = [row for row in rows if (row.dataset, row.protocol, row.relevance) == (dataset, protocol, relevance)]
        learned = _list(f"{n:,}" for n in sorted({row.training_rows for row in mine}))
        lines += [f"## {dataset}, protocol {protocol}", f"{mine[0].rows:,} rows, {learned} training rows; {relevance}."]
        for metric in TABLES:
            if having := [row for row in mine if metric in row.metrics]:
                lines += [f"### {METRICS[metric].about}, %", table(having, metric)]
        lines += [f"### {SECONDS[seconds]}", table(mine, seconds)]
        if larger := [row for row in mine if row.row_bytes > n_bytes(row.bits)]:
            sizes = dict.fromkeys(f"{row.method} with {row.bits} bits {row.row_bytes}" for row in larger)
            lines.append("Bytes a row, with correctives: " + _list(sizes))
        if changed := _distinct((row.method, _parameters(row)) for row in mine if row.parameters):
            lines.append("Hyper-parameters that differ from the defaults: " + _list(f"{m} {p}" for m, p in changed))
        if tuned := _distinct((row.method, _list(sorted(row.tuned))) for row in mine if row.tuned):
            lines.append("Chosen by cross-validation on the training rows: " + _list(f"{m} {p}" for m, p in tuned))
        lines += order(mine)
    return "\n\n".join(lines) + "\n"


def table(rows: Sequence[Row], metric: str) -> str:
    """Return a Markdown table, methods by bits: mean over seeds, standard deviation, published figure.

    A method that was measured with several sets of hyper-parameters has a line for each.
    """
    bits = sorted({row.bits for row in rows})
    variants = _distinct((row.method, _parameters(row)) for row in rows)
    lines = ["| method | " + " | ".join(f"{b} bits" for b in bits) + " | seeds |", "|---" * (len(bits) + 2) + "|"]
    for name, parameters in variants:
        mine = [row for row in rows if (row.method, _parameters(row)) == (name, parameters)]
        several = [method for method, _ in variants].count(name) > 1
        label = f"{name}, {parameters or 'defaults'}" if several else name
        cells = [_cell(mine, name, b, metric) for b in bits]
        seeds = {len([row for row in mine if row.bits == b]) for b in bits} - {0}
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {' or '.join(map(str, sorted(seeds)))} |")
    known = PUBLISHED.get(rows[0].protocol)
    if known and any("(" in line for line in lines):
        lines += ["", f"In parentheses: published by {known.source}."]
    return "\n".join(lines)


def _cell(rows: Sequence[Row], name: str, bits: int, metric: str) -> str:
    found = _values(rows, name, bits, metric)
    if not len(found):
        return "not measured"
    scale, digits = (1, 1) if metric in SECONDS else (100, 2)
    text = f"{scale * found.mean():.{digits}f}"
    if len(found) > 1:
        text += f" ± {scale * found.std(ddof=1):.{digits}f}"
    known = PUBLISHED.get(rows[0].protocol)
    figure = known.figures.get(rows[0].dataset, {}).get(name, {}).get(bits) if known else None
    if known and metric == known.metric and figure is not None:
        text += f" ({scale * figure:.2f})"
    return text


def order(rows: Sequence[Row]) -> list[str]:
    """Return how the ranking of the methods agrees with the published one for a similar dataset, as lines."""
    from scipy.stats import kendalltau

    like = LIKE.get(rows[0].dataset)
    if not like or rows[0].protocol != "bdnn":
        return []
    figures = BDNN.figures[like]
    lines = [f"### Ranking of the methods by {BDNN.metric}, compared with the published one for {like}"]
    for bits in sorted({row.bits for row in rows}):
        ours = {name: _values(rows, name, bits, BDNN.metric) for name in figures}
        known = {name: found.mean() for name, found in ours.items() if len(found) and bits in figures[name]}
        if len(known) < 2:
            continue
        theirs = [figures[name][bits] for name in known]
        tau = kendalltau(list(known.values()), theirs).statistic
        measured, published = (
            " > ".join(sorted(known, key=figure.__getitem__, reverse=True))
            for figure in (known, dict(zip(known, theirs, strict=True)))
        )
        lines.append(f"{bits} bits, Kendall's tau {tau:.2f}: measured {measured}; published {published}.")
    return lines


def _values(rows: Iterable[Row], name: str, bits: int, metric: str) -> Any:
    mine = [row for row in rows if (row.method, row.bits) == (name, bits)]
    found = [getattr(row, metric) if metric in SECONDS else row.metrics[metric] for row in mine]
    return np.array([value for value in found if value is not None])


def _distinct(items: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Return the distinct items in order of first appearance."""
    return list(dict.fromkeys(items))


def _versions(row: Row) -> str:
    return _list(f"{name} {version}" for name, version in row.versions.items())


def _parameters(row: Row) -> str:
    return _list(f"{name}={value}" for name, value in sorted(row.parameters.items()))


def _list(items: Iterable[str]) -> str:
    return ", ".join(items)
