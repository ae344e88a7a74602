"""The rows of a version in memory: codes by ascending id and, from their first use on, rows by label and vectors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from threading import RLock

import numpy as np

from hashing.bits import n_bytes
from hashing.mapreduce import Array, Batch

from ..features.dataset import Dataset
from ..features.deletions import without_suffix
from ..features.shard import FeatureShard, SourceChanged
from .parts import CodeShard, read_ids, read_part


class ResidentRows:
    """The rows of some parts, which must be at least one. May be shared by threads.

    `batch` has ids (n,) in increasing order and codes (n, B). The parts are read here, and again when the labels are
    first used. The vectors are in a temporary file that is mapped into memory, below TMPDIR.
    """

    def __init__(self, shards: Sequence[CodeShard]) -> None:
        n = sum(shard.part.rows for shard in shards)
        ids, codes = np.empty(n, np.int64), np.empty((n, n_bytes(shards[0].n_bits)), np.uint8)
        row = 0
        for shard in shards:
            for batch in shard:
                rows = slice(row, row := row + len(batch.ids))
                ids[rows], codes[rows] = batch.ids, batch.x
        if (ids[1:] < ids[:-1]).any():
            order = np.argsort(ids, kind="stable")
            ids, codes = ids[order], codes[order]
        self.shards, self.batch = shards, Batch(ids, codes)
        self._labels: tuple[Array, Array] | None = None
        self.vectors: tuple[Array, Array] | None = None  # once mapped
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

    def map_vectors(self, dataset: Dataset, previous: ResidentRows | None = None) -> tuple[Array, Array]:
        """Return the vectors (n, d) float32, and whether each is the one that was encoded (n,).

        The first call reads them from the source, except for parts that `previous` also has, if it has vectors.
        """
        with self._lock:
            self.vectors = self.vectors or self._read_vectors(dataset, previous)
        return self.vectors

    def _read_vectors(self, dataset: Dataset, previous: ResidentRows | None) -> tuple[Array, Array]:
        x, is_encoded = _temporary(len(self.batch.ids), dataset.dim), np.zeros(len(self.batch.ids), bool)
        old = {shard.part.url for shard in previous.shards} if previous and previous.vectors else set()
        source = unchanged_source(self.shards, dataset)
        for part in (shard.part for shard in self.shards):
            if previous and previous.vectors and part.url in old:
                ids, (vectors, was_encoded) = read_ids(part.url), previous.vectors
                rows, before = self.positions(ids), previous.positions(ids)
                x[rows], is_encoded[rows] = vectors[before], was_encoded[before]
            elif part.shard in source:
                with suppress(SourceChanged):
                    is_encoded[self._copy(source[part.shard], x)] = True
        return x, is_encoded

    def _copy(self, shard: FeatureShard, x: Array) -> Array:
        """Copy the vectors of a source shard to x, and return their rows, or raise SourceChanged."""
        copied = [np.zeros(0, np.int64)]
        try:
            for batch in shard:
                rows = np.minimum(self.positions(batch.ids), len(x) - 1)
                present = self.batch.ids[rows] == batch.ids  # the others were deleted or dropped
                copied.append(rows[present])
                x[rows[present]] = batch.x[present]
        finally:
            shard.refuse_change()  # a mix of the old and the new file would explain any error
        return np.concatenate(copied)

    def positions(self, ids: Array) -> Array:
        """Return the positions of rows by their ids."""
        return np.searchsorted(self.batch.ids, ids)


def unchanged_source(shards: Sequence[CodeShard], dataset: Dataset) -> dict[str, FeatureShard]:
    """Return the source shards whose vectors are those that were encoded, by name, with their deleted rows."""
    encoded = {shard.part.shard: shard.part for shard in shards}
    now = {shard.name: shard.version for shard in dataset.shards("base")}
    return {
        shard.name: shard
        for shard in dataset.model_copy(update={"deleted": ()}).shards("base")
        if (part := encoded.get(shard.name))
        and (part.version == now[shard.name] or without_suffix(part.version) == shard.version)
    }


def _temporary(n: int, dim: int) -> Array:
    """Return an array (n, dim) float32 in a temporary file without a name, mapped into memory."""
    with tempfile.TemporaryFile() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, 4 * n * dim)  # a disk that fills up later would end the process
        except OSError as error:
            wanted = f"{4 * n * dim / 1e9:.1f} GB of vectors in {tempfile.gettempdir()}"
            raise OSError(error.errno, f"cannot map {wanted}: {error.strerror}; set TMPDIR to another folder") from None
        return np.asarray(np.memmap(file, np.float32, "r+", shape=(n, dim)))
