"""Metrics and curves from histograms, with means and confidence intervals over queries."""

import numpy as np

from hashing.evaluation import intervals, metrics, tie_groups
from hashing.mapreduce import Array

from ..records import Curves, Estimate, Measured
from .registry import OVERSAMPLING


def metric_values(histogram: Array, neighbours: int = 0, ranked: Array | None = None) -> dict[str, Array]:
    """Return each metric, (q,) float64 by name, of a histogram from `Judge`. Empty balls and no hits count as 0.

    Metrics by rank are expectations over ties, or those of `ranked`, the runs of a ranking without ties. If the
    k = `neighbours` nearest rows are relevant, reranking f k candidates by their vectors finds every neighbour among
    the candidates, so its recall is that of the first f k ranks.
    """
    ranked, graded = np.split(histogram if ranked is None else ranked, [2])
    ties, ranks = tie_groups.groups(histogram[:2]), tie_groups.groups(ranked)
    depths = {"ndcg": None, "ndcg_at_10": 10, "ndcg_at_100": 100} if len(graded) else {}
    gains = {name: metrics.ndcg(graded, depth) for name, depth in depths.items()}
    factors = OVERSAMPLING if neighbours else ()
    reranked = {f"recall_reranked_x{factor}": metrics.recall_at(ranks, factor * neighbours) for factor in factors}
    worst, best = metrics.average_precision_bounds(ties)
    return {
        "map": metrics.average_precision(ranks),
        "map_pessimistic": worst,
        "map_optimistic": best,
        "map_trapezoid": metrics.trapezoid_average_precision(ranks),
        "map_at_1000": metrics.average_precision_at(ranks, 1000),
        "precision_at_100": metrics.precision_at(ranks, 100),
        "recall_at_1000": metrics.recall_at(ranks, 1000),
        "precision_radius_2": metrics.precision_within(ties, 2),
        "recall_radius_2": metrics.recall_within(ties, 2),
        "empty_balls_radius_2": (histogram[0, :, :3].sum(-1) == 0).astype(np.float64),
        **gains,
        **reranked,
    }


def measured_metrics(histogram: Array, seed: int, values: dict[str, Array]) -> Measured:
    """Return means and intervals of the values of metrics; `rows` is the largest number of rows ranked for a query."""
    estimates = {name: estimated(found, seed) for name, found in values.items()}
    return Measured(rows=int(histogram[0].sum(-1).max()), metrics=estimates)


def estimated(values: Array, seed: int) -> Estimate:
    """Return the mean of values (q,) and its bootstrap interval."""
    low, high = intervals.bootstrap_interval(values, seed)
    return Estimate(value=float(values.mean()), low=float(low), high=float(high))


def retrieval_curves(histogram: Array, at: Array | None = None) -> Curves:
    """Return precision and recall by radius and by rank, as in the figures of DHN (Zhu et al., AAAI 2016).

    `at` holds the curves by rank of rankings without ties; default: `curves_at` of the histogram.
    """
    histogram = histogram[:2]
    precision, recall = metrics.precision_recall_curve(histogram)
    found = histogram[0].cumsum(-1) > 0
    shares = found.mean(0)
    conditional = np.divide(precision.mean(0), shares, out=np.zeros_like(shares), where=shares > 0).tolist()
    pairs, relevant_pairs = histogram.sum(1).tolist()
    precision_at, recall_at = (curves_at(histogram, ranks(histogram)) if at is None else at).mean(axis=2)
    return Curves(
        precision=tuple(precision.mean(0).tolist()),
        recall=tuple(recall.mean(0).tolist()),
        ranks=tuple(ranks(histogram)),
        precision_at=tuple(precision_at.tolist()),
        recall_at=tuple(recall_at.tolist()),
        found_precision=tuple(mean if share else None for mean, share in zip(conditional, shares, strict=True)),
        found=tuple(shares.tolist()),
        pairs=tuple(pairs),
        relevant_pairs=tuple(relevant_pairs),
    )


def ranks(histogram: Array) -> list[int]:
    """Return the ranks 1, 2, 5, 10, … up to the number of rows."""
    rows = int(histogram[0].sum(-1).max())
    return [n for power in range(len(str(rows))) for n in (10**power, 2 * 10**power, 5 * 10**power) if n <= rows]


def curves_at(ranked: Array, ranks: list[int]) -> Array:
    """Return precision and recall at the first N ranks, (2, len(ranks), q) float64."""
    both, ties = (metrics.precision_at, metrics.recall_at), tie_groups.groups(ranked[:2])
    found = [metric(ties, n) for metric in both for n in ranks]
    return np.reshape(found, (2, len(ranks), ranked.shape[1]))
