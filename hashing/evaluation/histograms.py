"""Statistics of all rows and of relevant rows by Hamming distance from each query.

States are integers, so the result is bitwise equal for any cut into shards and batches, and on any device.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..hamming import scan
from ..hamming.layout import pack_labels
from ..mapreduce import Array, Batch, Counts
from ..neighbours.id_lookup import IdLookup, neighbour_lookup


@dataclass(frozen=True, eq=False)
class HammingHistogram(Counts):
    """Statistic over packed codes: rows, and rows that share a label, by distance -> (2, q, n_bits + 1) int64.

    The row with a query's own id is left out. Without labels no row is relevant.

    Examples
    --------
    >>> batch = Batch(np.arange(3), np.array([[0b00], [0b01], [0b11]], np.uint8), np.array([[1, 0], [0, 1], [1, 0]]))
    >>> statistic = HammingHistogram(batch.x[:1], 2, pack_labels(batch.y[:1]), batch.ids[:1])
    >>> statistic.finish(statistic.update(statistic.zero(), batch))
    array([[[0, 1, 1]],
    <BLANKLINE>
           [[0, 0, 1]]])
    """

    codes: Array  # (q, B) uint8
    n_bits: int
    labels: Array | None  # (q, w) uint64, from hamming.layout.pack_labels
    ids: Array  # (q,) int64, distinct
    device: str | None = field(default=None, kw_only=True)  # a torch device, such as "cuda"; None: one CPU core

    def __post_init__(self) -> None:
        check_query_ids(self.codes, self.ids)

    def zero(self) -> Array:
        return np.zeros((2, len(self.codes), self.n_bits + 1), np.int64)

    def update(self, state: Array, batch: Batch) -> Array:
        labels = None
        if self.labels is not None:
            if batch.y is None:
                raise ValueError("expected rows with labels, found a batch without")
            labels = pack_labels(batch.y)
        state += count_on(self.device, scan.histogram, self.codes, batch.x, self.n_bits, self.labels, labels)
        i, j = self._own.find(batch.ids)
        distances = scan.pair_distances(self.codes, batch.x, i, j)
        np.subtract.at(state[0], (i, distances), 1)
        if self.labels is not None and labels is not None:
            np.subtract.at(state[1], (i, distances), (self.labels[i] & labels[j]).any(axis=1))
        return state

    @cached_property
    def _own(self) -> IdLookup:
        return IdLookup(self.ids, np.arange(len(self.ids)))


@dataclass(frozen=True, eq=False)
class GradedHistogram(HammingHistogram):
    """Statistic over packed codes: rows by number of shared labels and distance -> (n_grades, q, n_bits + 1) int64.

    Element g counts the rows that share g labels with the query; the last grade includes the rows that share more. The
    row with a query's own id is left out.
    """

    n_grades: int

    def zero(self) -> Array:
        return np.zeros((self.n_grades, len(self.codes), self.n_bits + 1), np.int64)

    def update(self, state: Array, batch: Batch) -> Array:
        if self.labels is None or batch.y is None:
            raise ValueError("expected queries and rows with labels, found some without")
        labels = pack_labels(batch.y)
        arguments = self.codes, batch.x, self.n_bits, self.labels, labels, self.n_grades
        state += count_on(self.device, scan.graded_histogram, *arguments)
        i, j = self._own.find(batch.ids)
        shared = np.bitwise_count(self.labels[i] & labels[j]).sum(axis=1, dtype=np.int64)
        distances = scan.pair_distances(self.codes, batch.x, i, j)
        np.subtract.at(state, (np.minimum(shared, self.n_grades - 1), i, distances), 1)
        return state


@dataclass(frozen=True, eq=False)
class NeighbourHistogram(Counts):
    """Statistic over packed codes: rows, and given neighbours, by distance -> (2, q, n_bits + 1) int64.

    The relevant rows of a query are its neighbours, given by id. Ids that no shard holds are ignored; -1 is padding, as
    in NearestNeighbours. The row with a query's own id is left out.
    """

    codes: Array  # (q, B) uint8
    n_bits: int
    neighbours: Array | IdLookup  # (q, k) int64 ids, or their neighbour_lookup, to share it between several codes
    ids: Array  # (q,) int64, distinct
    device: str | None = field(default=None, kw_only=True)  # as in HammingHistogram

    def __post_init__(self) -> None:
        check_query_ids(self.codes, self.ids)
        if isinstance(self.neighbours, IdLookup):
            return
        if self.neighbours.ndim != 2 or len(self.neighbours) != len(self.ids):
            raise ValueError(f"expected neighbours ({len(self.ids)}, k), found shape {self.neighbours.shape}")

    def zero(self) -> Array:
        return self._all_rows.zero()

    def update(self, state: Array, batch: Batch) -> Array:
        state = self._all_rows.update(state, batch)
        i, j = self._lookup.find(batch.ids)
        bins = i * np.int64(self.n_bits + 1) + scan.pair_distances(self.codes, batch.x, i, j)
        np.add.at(state[1].reshape(-1), bins, 1)
        return state

    @cached_property
    def _all_rows(self) -> HammingHistogram:
        return HammingHistogram(self.codes, self.n_bits, None, self.ids, device=self.device)

    @cached_property
    def _lookup(self) -> IdLookup:
        return self.neighbours if isinstance(self.neighbours, IdLookup) else neighbour_lookup(self.neighbours, self.ids)


def count_on(device: str | None, function: Callable[..., Any], *arguments: Any) -> Array:
    """Return function(*arguments), a function of hashing.hamming.scan, computed on the torch device unless None."""
    if device is None:
        counts: Array = function(*arguments)
        return counts
    import torch

    def moved(value: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(value)).to(device) if isinstance(value, np.ndarray) else value

    return np.asarray(function(*map(moved, arguments)).cpu().numpy())


def check_query_ids(codes: Array, ids: Array) -> None:
    """Raise ValueError unless there is one distinct id (q,) for each code (q, B)."""
    if codes.ndim != 2 or ids.shape != codes.shape[:1]:
        raise ValueError(f"expected codes (q, B) with ids (q,), found {codes.shape} and {ids.shape}")
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"expected distinct query ids, found {len(ids) - len(np.unique(ids))} repeated")
