"""Hamming retrieval, scored exactly from integer histograms that shards add up.

A histogram h is (2, q, n_bits + 1) int64: h[0] counts all rows, h[1] the relevant ones, by distance from each query.
Rows at one distance are tied: a metric is its expectation over all their orders, each as likely, unless it says
otherwise. Metrics return (q,) float64; `empty` is the value of a query for which the metric is 0 / 0 (NaN, with
np.nanmean, leaves it out). A1 to A7 are the definitions of "MAP" found in published code, see docs/evaluation.md.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from scipy.special import expi, gammaln

from . import bits, hamming
from .mapreduce import Array, Batch


@dataclass(frozen=True, eq=False)
class HammingHistogram:
    """Statistic over packed codes: the histogram of rows, and of rows that share a label, around each query.

    A query's own row, known by its id, is left out of its ranking. Without labels no row is relevant.
    """

    codes: Array  # (q, B) uint8
    n_bits: int
    labels: Array | None  # (q, w) uint64, from hamming.pack_labels
    ids: Array  # (q,) int64, distinct

    def __post_init__(self):
        check_queries(self.codes, self.ids)

    def zero(self):
        return np.zeros((2, len(self.codes), self.n_bits + 1), np.int64)

    def update(self, state, batch: Batch):
        labels = None
        if self.labels is not None:
            if batch.y is None:
                raise ValueError("expected rows with labels, found a batch without")
            labels = hamming.pack_labels(batch.y)
        state += hamming.histogram(self.codes, batch.x, self.n_bits, self.labels, labels)
        i, j = self._own.find(batch.ids)
        distance = hamming.distances(self.codes, batch.x, i, j)
        np.subtract.at(state[0], (i, distance), 1)
        if labels is not None:
            np.subtract.at(state[1], (i, distance), (self.labels[i] & labels[j]).any(axis=1))
        return state

    def merge(self, left, right):
        left += right
        return left

    def finish(self, state):
        return state

    @cached_property
    def _own(self):
        return Listed(self.ids, np.arange(len(self.ids)))


@dataclass(frozen=True, eq=False)
class ListedNeighbours:
    """Statistic: the same histogram where the relevant rows of a query are listed by id.

    A listed id that no shard holds does not count; -1 pads a list, as NearestNeighbours does. Own rows are left out.
    """

    codes: Array  # (q, B) uint8
    n_bits: int
    neighbours: Array  # (q, k) int64
    ids: Array  # (q,) int64, distinct

    def __post_init__(self):
        check_queries(self.codes, self.ids)
        if self.neighbours.ndim != 2 or len(self.neighbours) != len(self.ids):
            raise ValueError(f"expected neighbours ({len(self.ids)}, k), found shape {self.neighbours.shape}")

    def zero(self):
        return self._all.zero()

    def update(self, state, batch: Batch):
        state = self._all.update(state, batch)
        i, j = self._listed.find(batch.ids)
        np.add.at(state[1], (i, hamming.distances(self.codes, batch.x, i, j)), 1)
        return state

    def merge(self, left, right):
        return self._all.merge(left, right)

    def finish(self, state):
        return state

    @cached_property
    def _all(self):
        return HammingHistogram(self.codes, self.n_bits, None, self.ids)

    @cached_property
    def _listed(self):
        i, column = np.nonzero((self.neighbours != self.ids[:, None]) & (self.neighbours != -1))
        return Listed(self.neighbours[i, column], i)
