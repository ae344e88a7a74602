"""Hamming histograms over shards: counts of all rows and of relevant rows by query and distance."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..hamming import distances
from ..mapreduce import Array, Batch
from .listed import Listed, list_neighbours


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
            labels = distances.pack_labels(batch.y)
        state += distances.histogram(self.codes, batch.x, self.n_bits, self.labels, labels)
        i, j = self._own.find(batch.ids)
        distance = distances.distances(self.codes, batch.x, i, j)
        np.subtract.at(state[0], (i, distance), 1)
        if labels is not None:
            np.subtract.at(state[1], (i, distance), (self.labels[i] & labels[j]).any(axis=1))
        return state

    def merge(self, left, right):
        return left + right

    def finish(self, state):
        return state

    @cached_property
    def _own(self):
        return Listed(self.ids, np.arange(len(self.ids)))


@dataclass(frozen=True, eq=False)
class GradedHistogram(HammingHistogram):
    """Statistic: around each query the rows that share g labels with it, at [g]; own rows are left out as well.

    At the last grade stand those that share as many or more.
    """

    n_grades: int

    def zero(self):
        return np.zeros((self.n_grades, len(self.codes), self.n_bits + 1), np.int64)

    def update(self, state, batch: Batch):
        if self.labels is None or batch.y is None:
            raise ValueError("expected queries and rows with labels, found a batch without")
        labels = distances.pack_labels(batch.y)
        state += distances.graded_histogram(self.codes, batch.x, self.n_bits, self.labels, labels, self.n_grades)
        i, j = self._own.find(batch.ids)
        shared = np.bitwise_count(self.labels[i] & labels[j]).sum(axis=1, dtype=np.int64)
        own = np.minimum(shared, self.n_grades - 1), i, distances.distances(self.codes, batch.x, i, j)
        np.subtract.at(state, own, 1)
        return state


@dataclass(frozen=True, eq=False)
class ListedNeighbours:
    """Statistic: the same histogram where the relevant rows of a query are listed by id.

    A listed id that no shard holds does not count; -1 pads a list, as NearestNeighbours does. Own rows are left out.
    """

    codes: Array  # (q, B) uint8
    n_bits: int
    neighbours: "Array | Listed"  # (q, k) int64, or the same sorted once for several codes
    ids: Array  # (q,) int64, distinct

    def __post_init__(self):
        check_queries(self.codes, self.ids)
        if isinstance(self.neighbours, Listed):
            return
        if self.neighbours.ndim != 2 or len(self.neighbours) != len(self.ids):
            raise ValueError(f"expected neighbours ({len(self.ids)}, k), found shape {self.neighbours.shape}")

    def zero(self):
        return self._all.zero()

    def update(self, state, batch: Batch):
        state = self._all.update(state, batch)
        i, j = self._listed.find(batch.ids)
        bins = i * np.int64(self.n_bits + 1) + distances.distances(self.codes, batch.x, i, j)
        np.add.at(state[1].reshape(-1), bins, 1)
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
        return self.neighbours if isinstance(self.neighbours, Listed) else list_neighbours(self.neighbours, self.ids)


def narrow(counts: Array) -> Array:
    """(m,) counts under 2^47 -> (m, 3) uint16."""
    return counts.astype("<i8").view("<u2").reshape(-1, 4)[:, :3].copy()


def widened(counts: Array) -> Array:
    """(m, 3) uint16 -> (m,) int64."""
    return np.pad(counts, ((0, 0), (0, 1))).view("<i8")[:, 0]


def check_queries(codes: Array, ids: Array) -> None:
    if codes.ndim != 2 or ids.shape != codes.shape[:1]:
        raise ValueError(f"expected codes (q, B) with ids (q,), found {codes.shape} and {ids.shape}")
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"expected distinct query ids, found {len(ids) - len(np.unique(ids))} repeated")
