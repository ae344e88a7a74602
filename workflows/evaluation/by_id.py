"""Metrics of queries: expectations over ties, or those of rankings by (distance, id) (`evaluate --ties by-id`)."""

from collections.abc import Iterable

import numpy as np

from hashing.evaluation.by_id import RankingById, rows_by_id
from hashing.mapreduce import Array, Shard

from ..records import Curves, Measured
from . import metrics

CELLS = 2**24  # pairs of queries and rows that are ranked at once


def metrics_and_curves(
    histogram: Array, neighbours: int, seed: int, ranked: RankingById | None, shards: Iterable[Shard]
) -> tuple[Measured, Curves]:
    """Return the metrics and curves of a histogram from `Judge`.

    Those that depend on the order of tied rows are expectations over random order, or if `ranked` is given, those of
    its rankings of the rows of the shards.
    """
    if ranked:
        return measured_by_id(ranked, shards, histogram, seed)
    values = metrics.metric_values(histogram, neighbours)
    return metrics.measured_metrics(histogram, seed, values), metrics.retrieval_curves(histogram)


def measured_by_id(
    ranked: RankingById, shards: Iterable[Shard], histogram: Array, seed: int
) -> tuple[Measured, Curves]:
    """Return the metrics and curves of rankings by (distance, id), in the form of `metrics.measured_metrics`.

    Bounds over ties and metrics by radius do not depend on the order; they come from the histogram of the shards
    (`Judge.histogram_of`). Raises ValueError for more than 10^6 rows.
    """
    neighbours = 0 if ranked.neighbours is None else ranked.neighbours.shape[1]
    database, ranks = rows_by_id(shards), metrics.ranks(histogram)
    n_grades = max(2, len(histogram) - 2)
    values, curves = [], []
    step = max(1, CELLS // len(database.ids))
    for start in range(0, len(ranked.codes), step):
        i = range(start, min(start + step, len(ranked.codes)))
        runs = ranked.run_counts(i, database, n_grades)
        order = np.stack([runs.sum(axis=0), runs[1:].sum(axis=0), *runs[: len(histogram) - 2]])
        values.append(metrics.metric_values(histogram[:, i], neighbours, order))
        curves.append(metrics.curves_at(order, ranks))
    found = {name: np.concatenate([part[name] for part in values]) for name in values[0]}
    return metrics.measured_metrics(histogram, seed, found), metrics.retrieval_curves(
        histogram, np.concatenate(curves, axis=2)
    )
