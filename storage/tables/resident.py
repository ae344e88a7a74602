"""The rows of a version in memory: codes sorted by id, and the rows of each label, read on first use."""

from __future__ import annotations

from collections.abc import Sequence
from threading import RLock

import numpy as np

from hashing.mapreduce import Array, Batch

from ..features.dataset import Dataset
from .parts import CodeShard, read_part
from .vectors import VectorCache


class ResidentRows:
    """The rows of one or more parts. Threads may share it.

    `batch` has ids (n,) in increasing order and codes (n, B), followed by the correctives of the shards. The parts are
    read here, and again when the labels are first used.
    """

    def __init__(self, shards: Sequence[CodeShard]) -> None:
        n = sum(shard.part.rows for shard in shards)
        ids, codes = np.empty(n, np.int64), np.empty((n, shards[0].row_bytes), np.uint8)
        row = 0
        for shard in shards:
            for batch in shard:
                rows = slice(row, row := row + len(batch.ids))
                ids[rows], codes[rows] = batch.ids, batch.x
        self._order: Array | None = None
        if (ids[1:] < ids[:-1]).any():
            order = np.argsort(ids, kind="stable")
            ids, codes = ids[order], codes[order]
            self._order = order.astype(np.uint32) if n < 2**32 else order
        self.shards, self.batch = shards, Batch(ids, codes)
        self._labels: tuple[Array, Array] | None = None
        self.vectors: VectorCache | None = None  # created on first use
        self._lock = RLock()

    def with_labels(self, labels: Sequence[int]) -> Array:
        """Return the positions (m,) of the rows that have at least one of some labels, in increasing order."""
        with self._lock:
            self._labels = self._labels or self._read_labels()
        starts, positions = self._labels
        rows = [positions[starts[label] : starts[label + 1]] for label in labels if label + 1 < len(starts)]
        return rows[0] if len(rows) == 1 else np.unique(np.concatenate([positions[:0], *rows]))

    def _read_labels(self) -> tuple[Array, Array]:
        """Return starts (c + 1,) and positions: the rows with label i are positions[starts[i] : starts[i + 1]]."""
        labels, positions = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for shard in self.shards:
            table = read_part(shard.part.url, shard.n_bits, shard.part.size)
            if "labels" in table.column_names:
                column = table["labels"].combine_chunks()
                lengths = column.value_lengths().fill_null(0).to_numpy()
                labels.append(column.flatten().to_numpy())
                positions.append(np.repeat(self.positions(table["id"].to_numpy()), lengths))
        every, rows = np.concatenate(labels), np.concatenate(positions)
        return np.concatenate([[0], np.bincount(every).cumsum()]), rows[np.lexsort((rows, every))]

    def cache_vectors(self, dataset: Dataset, previous: ResidentRows | None = None) -> VectorCache:
        """Return the cache of the vectors of the rows. On first use, it takes over those that `previous` has read."""
        with self._lock:
            self.vectors = self.vectors or VectorCache(self.shards, dataset, previous.vectors if previous else None)
        return self.vectors

    def part_rows(self, positions: Array) -> Array:
        """Return the row numbers in the order of the parts, as VectorCache numbers them, of rows at some positions."""
        return positions if self._order is None else self._order[positions]

    def positions(self, ids: Array) -> Array:
        """Return the positions of the rows with some ids."""
        return np.searchsorted(self.batch.ids, ids)
