"""Query overlap, a check for leaks: the number of rows of a split that are also queries, by id and by content."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np

from ..mapreduce import Array, Batch


@dataclass(frozen=True, eq=False)
class QueryOverlap:
    """Statistic: the number of rows with the id of a query, and with the content of a query -> (int, int).

    Contents are compared byte by byte, so vectors and images must have the dtype of the queries.
    """

    ids: Array  # (q,) int64
    x: Array  # (q, d) vectors | (q, h, w, c) images | (q,) text

    def zero(self) -> Array:
        return np.zeros(2, np.int64)

    def update(self, state: Array, batch: Batch) -> Array:
        state += np.isin(batch.ids, self.ids).sum(), np.isin(row_digests(batch.x), self._digests).sum()
        return state

    def merge(self, left: Array, right: Array) -> Array:
        return left + right

    def finish(self, state: Array) -> tuple[int, int]:
        return int(state[0]), int(state[1])

    @cached_property
    def _digests(self) -> Array:
        return row_digests(self.x)


def row_digests(x: Array) -> Array:
    """Return (n,) uint64, a 64-bit hash of the content of each row."""
    rows = (row.tobytes() if isinstance(row, np.ndarray) else str(row).encode() for row in x)
    return np.array([int.from_bytes(blake2b(row, digest_size=8).digest(), "little") for row in rows], np.uint64)
