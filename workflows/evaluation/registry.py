"""The registry of metrics: name, range, better direction, and required data.

Reports, gate rules, benchmarks and `--help` use it, so nothing heavy is imported here.
"""

import math
from typing import Literal, NamedTuple

from hashing.names import hint, spelled

Direction = Literal["greater", "less", "neither"]
Needs = Literal[
    "relevant rows", "graded relevance", "neighbours", "codes", "real-valued queries", "quantizer", "protocol dhn"
]

OVERSAMPLING = (1, 2, 4, 10, 100)  # candidates that are reranked, as multiples of the neighbours to find


class Metric(NamedTuple):
    """A measure of the quality of codes."""

    name: str
    about: str  # one line for reports and help
    low: float = 0.0
    high: float = 1.0
    better: Direction = "greater"
    needs: Needs = "relevant rows"

    @property
    def range(self) -> str:
        """The range of its values, in words."""
        return f"at least {self.low:g}" if math.isinf(self.high) else f"between {self.low:g} and {self.high:g}"


ESTIMATOR = "estimator."  # of metrics by the estimated distances of a quantizer
RANKING = f"metrics {ESTIMATOR}* rank by "  # in protocols of existing tables: do not change
ESTIMATED = (
    "map", "map_at_1000", "precision_at_100", "recall_at_1000", "ndcg", "ndcg_at_10", "ndcg_at_100",
    *(f"recall_reranked_x{by}" for by in OVERSAMPLING),
)  # fmt: skip

METRICS = {
    metric.name: metric
    for metric in (
        Metric("map", "mean average precision (tie-aware)"),
        Metric("map_pessimistic", "mean average precision, relevant rows last among ties"),
        Metric("map_optimistic", "mean average precision, relevant rows first among ties"),
        Metric("map_trapezoid", "mean average precision by trapezoids (tie-aware)"),
        Metric("map_at_1000", "mean average precision of the first 1000 (tie-aware)"),
        Metric("precision_at_100", "precision of the first 100 (tie-aware)"),
        Metric("recall_at_1000", "recall of the first 1000 (tie-aware)"),
        Metric("precision_radius_2", "precision within Hamming radius 2"),
        Metric("recall_radius_2", "recall within Hamming radius 2"),
        Metric("empty_balls_radius_2", "share of queries without a row within Hamming radius 2", better="less"),
        Metric("ndcg", "NDCG of all rows (by shared labels, tie-aware)", needs="graded relevance"),
        Metric("ndcg_at_10", "NDCG of the first 10 (by shared labels, tie-aware)", needs="graded relevance"),
        Metric("ndcg_at_100", "NDCG of the first 100 (by shared labels, tie-aware)", needs="graded relevance"),
        *(
            Metric(
                f"recall_reranked_x{factor}",
                f"recall of the neighbours after reranking {factor} times as many candidates",
                needs="neighbours",
            )
            for factor in OVERSAMPLING
        ),
        Metric("health.balance", "share of ones of the least balanced bit", better="neither", needs="codes"),
        Metric("health.entropy", "least entropy of a bit", needs="codes"),
        Metric("health.correlation", "largest absolute correlation of two bits", better="less", needs="codes"),
        Metric("health.constant_bits", "number of constant bits", high=math.inf, better="less", needs="codes"),
        Metric(
            "map_asymmetric",
            "mean average precision of real-valued queries, by inner product with the code (tie-aware)",
            needs="real-valued queries",
        ),
        Metric(
            "map_asymmetric_sigmoid",
            "mean average precision of real-valued queries, by L1 distance of sigmoid(u) from the bits (tie-aware)",
            needs="real-valued queries",
        ),
        Metric("map_dhn", "mean average precision as in the tables of DHN (A2, tie-aware)", needs="protocol dhn"),
        Metric("queries_without_hit", "share of queries without a hit", better="less", needs="protocol dhn"),
    )
}
METRICS |= {
    ESTIMATOR + name: METRICS[name]._replace(
        name=ESTIMATOR + name, about=f"{METRICS[name].about}, by the estimates of a quantizer", needs="quantizer"
    )
    for name in ESTIMATED
}
HEALTH = {  # keys of a report's health, and of the table property `health`: stored in existing tables, do not change
    "health.balance": "least balanced bit, share of ones",
    "health.entropy": "least entropy of a bit",
    "health.correlation": "largest correlation of two bits",
    "health.constant_bits": "constant bits",
}
GATED = [  # measured by `reindex`
    name for name, metric in METRICS.items() if metric.needs not in ("real-valued queries", "protocol dhn")
]


def find(name: str) -> Metric:
    """Return a metric of `reindex` by name. Raises ValueError, with similar names, for an unknown name."""
    if not (known := spelled(name, GATED)):
        raise ValueError(f"unknown metric {name!r}: {hint(name, GATED, 'the metrics are')}")
    return METRICS[known]


def split_protocol(protocol: str) -> tuple[str, str]:
    """Return a protocol without the clause on the ranking of a quantizer, and the clause, which is empty for others.

    >>> split_protocol("100 queries; metrics estimator.* rank by RaBitQ's estimate")
    ('100 queries', "metrics estimator.* rank by RaBitQ's estimate")
    """
    shared, _, ranking = protocol.partition(f"; {RANKING}")
    return shared, ranking and RANKING + ranking
