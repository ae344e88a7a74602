"""Metrics of a quantizer's estimated distances, beside those of the Hamming distances of its bits."""

from collections.abc import Sequence

import numpy as np

from hashing.evaluation import by_score
from hashing.mapreduce import Array, Data, Executor, Metric, Shard
from hashing.neighbours.candidates import query_blocks
from hashing.quantizers.contract import Quantizer

from .asymmetric import RELEVANT_BYTES
from .judge import Judge
from .metrics import metric_values
from .registry import ESTIMATED, ESTIMATOR, RANKING

MOST = 10**6  # relevant rows of a query, so that its state takes at most 64 MiB


def estimated_values(
    judge: Judge,
    function: Quantizer,
    metric: Metric,
    relevant: Array,
    shards: Sequence[Shard],
    executor: Executor,
    real: bool = False,
) -> dict[str, Array]:
    """Return the metrics of ESTIMATED, (q,) float64 by their names in the registry, for shards with correctives.

    `relevant` (q,) are the numbers of relevant rows. Queries are rounded to 4 bits a coordinate unless `real`. Returns
    nothing if a query has more than 10^6 relevant rows, as labels can give.
    """
    if relevant.max(initial=0) > MOST:
        return {}
    found: dict[str, list[Array]] = {}
    for i in query_blocks(relevant, RELEVANT_BYTES + 16 * judge.n_grades):
        estimator = function.estimator(judge.queries.x[i], metric, real)
        histogram = by_score.histogram(judge.by_score(estimator, i), Data(shards, executor))
        for name, values in metric_values(histogram, judge.k).items():
            if name in ESTIMATED:
                found.setdefault(ESTIMATOR + name, []).append(values)
    return {name: np.concatenate(values) for name, values in found.items()}


def ranking_of(function: Quantizer, metric: Metric, real: bool = False) -> str:
    """Return what ranks rows for which metrics, in words."""
    estimate = function.estimate_of(metric, real)
    return f"{RANKING}{estimate} distance, the others by the Hamming distance of the same bits"
