"""Exact distances of candidates, by which they are ranked again."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..evaluation.listed import Listed
from ..mapreduce import Array, Batch
from .exact import squared_distances


@dataclass(frozen=True, eq=False)
class ListedDistances:
    """Statistic over vectors: squared Euclidean distances of queries from the rows they list -> (q, k) float64.

    inf where no shard holds the row. Each is summed in float64 by itself, so that no cut changes a bit of it. To rank
    candidates again by it is the second step of coarse-to-fine search (Lin et al., CVPR Workshops 2015).
    """

    queries: Array  # (q, d) float32
    ids: Array  # (q, k) int64

    def __post_init__(self):
        if self.queries.ndim != 2 or self.ids.ndim != 2 or len(self.ids) != len(self.queries):
            raise ValueError(f"expected queries (q, d), ids (q, k), found {self.queries.shape} and {self.ids.shape}")

    def zero(self):
        return np.full(self.ids.shape, np.inf)

    def update(self, state, batch: Batch):
        if batch.x.ndim != 2 or batch.x.shape[1] != self.queries.shape[1]:
            raise ValueError(f"expected vectors of dimension {self.queries.shape[1]}, found shape {batch.x.shape}")
        places, rows = self._listed.find(batch.ids)
        i, column = np.divmod(places, self.ids.shape[1])
        state[i, column] = squared_distances(self.queries, batch.x, i, rows)
        return state

    def merge(self, left, right):
        return np.minimum(left, right)

    def finish(self, state):
        return state

    @cached_property
    def _listed(self):
        return Listed(self.ids.ravel(), np.arange(self.ids.size))
