"""Exact distances of candidates, computed from their vectors, to re-rank them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..functions import check_shape
from ..mapreduce import Array, Batch, Metric
from .exact import vector_distances
from .id_lookup import IdLookup


@dataclass(frozen=True, eq=False)
class CandidateDistances:
    """Statistic over vectors: distances of each query from its candidates -> (q, k) float64.

    Distances are those of NearestNeighbours, bit for bit. Candidates that no shard holds have distance inf. Sorting the
    candidates by these distances is the second step of coarse-to-fine search.

    Source: Lin, Yang, Hsiao & Chen, "Deep Learning of Binary Hash Codes for Fast Image Retrieval", CVPR Workshops 2015.
    """

    queries: Array  # (q, d) float32
    ids: Array  # (q, k) int64 ids of the candidates
    metric: Metric = "euclidean"

    def __post_init__(self) -> None:
        if self.queries.ndim != 2 or self.ids.ndim != 2 or len(self.ids) != len(self.queries):
            raise ValueError(f"expected queries (q, d), ids (q, k), found {self.queries.shape} and {self.ids.shape}")

    def zero(self) -> Array:
        return np.full(self.ids.shape, np.inf)

    def update(self, state: Array, batch: Batch) -> Array:
        check_shape(batch.x, self.queries.shape[1])
        places, rows = self._lookup.find(batch.ids)
        i, column = np.divmod(places, self.ids.shape[1])
        state[i, column] = vector_distances(self.queries, batch.x, i, rows, self.metric)
        return state

    def merge(self, left: Array, right: Array) -> Array:
        return np.minimum(left, right)

    def finish(self, state: Array) -> Array:
        return state

    @cached_property
    def _lookup(self) -> IdLookup:
        return IdLookup(self.ids.ravel(), np.arange(self.ids.size))
