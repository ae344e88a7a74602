"""Metrics of real-valued queries, which rank codes by the outputs of the hash function instead of their signs."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hashing.evaluation import by_score
from hashing.evaluation.metrics import average_precision
from hashing.functions import HashFunction
from hashing.mapreduce import Array, Data, Executor, Shard
from hashing.neighbours.candidates import query_blocks

from .judge import Judge

RELEVANT_BYTES = 32  # of each relevant row of a query in by_score.histogram, at most


def asymmetric_values(
    judge: Judge, function: HashFunction, relevant: Array, shards: Sequence[Shard], executor: Executor
) -> dict[str, Array]:
    """Return `map_asymmetric` and `map_asymmetric_sigmoid` of packed codes, each (q,) float64.

    `relevant` (q,) are the numbers of relevant rows. Raises ValueError for a query with more than two million. Without
    shards the metrics are 0, as those by Hamming distance are.
    """
    u, data = function.project(judge.queries.x), Data(shards, executor)
    weights = {"map_asymmetric": u, "map_asymmetric_sigmoid": np.tanh(u.astype(np.float64) / 2)}
    values = {name: np.zeros(len(u)) for name in weights}
    for name, w in weights.items():
        for i in query_blocks(relevant, RELEVANT_BYTES) if shards else ():
            ranking = replace(judge.by_score(by_score.InnerProducts(w[i]), i), n_grades=0)
            values[name][i] = average_precision(by_score.histogram(ranking, data))
    return values
