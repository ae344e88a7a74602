"""Query overlap: how many rows of a split are queries, by id and by content."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np

from ..mapreduce import Array, Batch


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
