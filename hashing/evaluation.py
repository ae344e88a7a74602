"""Hamming retrieval over shards: the statistics that make a histogram of it, and every metric of that histogram."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from scipy.special import entr

from . import bits, hamming
from .mapreduce import Array, Batch
from .metrics import (
    area_under_pooled_curve,
    average_precision,
    average_precision_at,
    average_precision_at_hits,
    average_precision_bounds,
    interpolated_precision_bounds,
    ndcg,
    precision_at,
    precision_recall_curve,
    precision_within,
    recall_at,
    recall_within,
    reciprocal_rank,
    success_at,
    trapezoid_average_precision,
)
from .ties import groups

__all__ = [
    "CodeHealth",
    "GradedHistogram",
    "HammingHistogram",
    "ListedNeighbours",
    "Overlap",
    "area_under_pooled_curve",
    "average_precision",
    "average_precision_at",
    "average_precision_at_hits",
    "average_precision_bounds",
    "bootstrap_interval",
    "groups",
    "interpolated_precision_bounds",
    "ndcg",
    "precision_at",
    "precision_recall_curve",
    "precision_within",
    "recall_at",
    "recall_within",
    "reciprocal_rank",
    "success_at",
    "trapezoid_average_precision",
]


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
        labels = hamming.pack_labels(batch.y)
        state += hamming.graded_histogram(self.codes, batch.x, self.n_bits, self.labels, labels, self.n_grades)
        i, j = self._own.find(batch.ids)
        shared = np.bitwise_count(self.labels[i] & labels[j]).sum(axis=1, dtype=np.int64)
        own = np.minimum(shared, self.n_grades - 1), i, hamming.distances(self.codes, batch.x, i, j)
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
        bins = i * np.int64(self.n_bits + 1) + hamming.distances(self.codes, batch.x, i, j)
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
        return self.neighbours if isinstance(self.neighbours, Listed) else listed(self.neighbours, self.ids)


class Health(NamedTuple):
    """How evenly the codes use their bits."""

    rows: int
    balance: Array  # (n_bits,) float64, share of ones; 0.5 is best
    entropy: Array  # (n_bits,) float64, bits of information of each bit alone; 1 is best
    correlation: float  # largest |correlation| of two bits, a constant bit having none; 0 is best


@dataclass(frozen=True)
class CodeHealth:
    """Statistic over packed codes -> Health, from integer counts of ones and of pairs of ones.

    The state is the upper triangle of the counts, row 0 and column 0 being of a bit that is always one. Each is kept as
    48 bits, (m, 3) uint16: at 4096 bits 50 MB, where the matrix as int64 would be 134.
    """

    n_bits: int

    def zero(self):
        return np.zeros(((self.n_bits + 1) * (self.n_bits + 2) // 2, 3), np.uint16)

    def update(self, state, batch: Batch):
        counts = np.zeros((self.n_bits + 1, self.n_bits + 1), np.int64)
        for start in range(0, len(batch.x), 4096):  # float32 counts exactly up to 2^24
            ones = bits.unpack(batch.x[start : start + 4096], self.n_bits)
            ones = np.pad(ones.astype(np.float32), ((0, 0), (1, 0)), constant_values=1)
            counts += (ones.T @ ones).astype(np.int64)
        return self.merge(state, narrow(counts[np.triu_indices(self.n_bits + 1)]))

    def merge(self, left, right):
        return narrow(widened(left) + widened(right))

    def finish(self, state):
        counts = np.zeros((self.n_bits + 1, self.n_bits + 1), np.int64)
        counts[np.triu_indices(self.n_bits + 1)] = widened(state)
        rows = counts[0, 0]
        if rows == 0:
            raise ValueError("expected at least one row, found none in all shards together")
        p = counts[0, 1:] / rows
        deviation = np.sqrt(p * (1 - p))
        scale = np.outer(deviation, deviation)
        correlation = np.divide(
            counts[1:, 1:] / rows - np.outer(p, p), scale, out=np.zeros_like(scale), where=scale > 0
        )
        return Health(int(rows), p, (entr(p) + entr(1 - p)) / np.log(2), float(abs(np.triu(correlation, 1)).max()))


def narrow(counts: Array) -> Array:
    """(m,) counts under 2^47 -> (m, 3) uint16."""
    return counts.astype("<i8").view("<u2").reshape(-1, 4)[:, :3].copy()


def widened(counts: Array) -> Array:
    """(m, 3) uint16 -> (m,) int64."""
    return np.pad(counts, ((0, 0), (0, 1))).view("<i8")[:, 0]


@dataclass(frozen=True, eq=False)
class Overlap:
    """Statistic: how many rows share their id with a given row, and how many their content to the byte -> (int, int).

    The leak check between queries, training set and database. Vectors and pictures must be of the same dtype.
    """

    ids: Array  # (q,) int64
    x: Array  # (q, d) | (q, h, w, c) | (q,) text

    def zero(self):
        return np.zeros(2, np.int64)

    def update(self, state, batch: Batch):
        state += np.isin(batch.ids, self.ids).sum(), np.isin(digests(batch.x), self._digests).sum()
        return state

    def merge(self, left, right):
        return left + right

    def finish(self, state):
        return int(state[0]), int(state[1])

    @cached_property
    def _digests(self):
        return digests(self.x)


def digests(x: Array) -> Array:
    """(n,) uint64, a hash of the content of each row."""
    rows = (row.tobytes() if isinstance(row, np.ndarray) else str(row).encode() for row in x)
    return np.array([int.from_bytes(blake2b(row, digest_size=8).digest(), "little") for row in rows], np.uint64)


class Listed:
    """Ids that queries have listed, sorted once so that each batch is looked up in them."""

    def __init__(self, ids: Array, queries: Array):
        order = np.argsort(ids, kind="stable")
        self.ids, self.queries = ids[order], queries[order]

    def find(self, ids: Array) -> tuple[Array, Array]:
        """Every (query, position in ids) of which the query lists that id."""
        first = np.searchsorted(self.ids, ids, "left")
        counts = np.searchsorted(self.ids, ids, "right") - first
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.queries[np.repeat(first, counts) + within], np.repeat(np.arange(len(ids)), counts)


def listed(neighbours: Array, own: Array) -> Listed:
    """The neighbours (q, k) of queries, without their own rows (q,) and without the -1 that pads."""
    real = (neighbours != own[:, None]) & (neighbours != -1)
    return Listed(neighbours[real], np.repeat(np.arange(len(own), dtype=np.int32), real.sum(axis=1)))


def check_queries(codes: Array, ids: Array) -> None:
    if codes.ndim != 2 or ids.shape != codes.shape[:1]:
        raise ValueError(f"expected codes (q, B) with ids (q,), found {codes.shape} and {ids.shape}")
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"expected distinct query ids, found {len(ids) - len(np.unique(ids))} repeated")


def bootstrap_interval(values: Array, seed: int, level: float = 0.95, resamples: int = 1000) -> tuple[float, float]:
    """(low, high) percentile interval of the mean over queries (Efron, 1979); NaN are left out.

    Give the differences of two metrics over the same queries to compare two codes.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError("expected at least one value that is not NaN, found none")
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(len(values), size=len(values))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
