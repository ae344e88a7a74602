"""Literal rankings: every row at a rank of its own, in order of (distance, id), as code has them that sorts.

Of a ranking only its runs count: ranks one after another of the same relevance, whose order among themselves changes no
metric. So a ranking is given as a histogram with the runs in the place of the distances, and the functions of
hashing.metrics that go by rank give the value of this one order.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..hamming import distances as hamming
from ..mapreduce import Array, Batch, Shard

MAX_ROWS = 10**6
OWN = -1  # the grade of a row that is not ranked


def in_order(shards: Iterable[Shard]) -> Batch:
    """All rows of shards of packed codes, in order of id; as y the words of their labels, (n, w) uint64.

    Raises ValueError for no row, or for more than MAX_ROWS: they are sorted for each query, in this process.
    """
    batches, n = [], 0
    for batch in (batch for shard in shards for batch in shard):
        batches.append((batch.ids, batch.x, *(() if batch.y is None else [hamming.pack_labels(batch.y)])))
        if (n := n + len(batch.ids)) > MAX_ROWS:
            raise ValueError(f"expected at most {MAX_ROWS:,} rows to rank by id, found more")
    if not n:
        raise ValueError("expected at least one row to rank, found none in all shards together")
    rows = Batch(*map(np.concatenate, zip(*batches, strict=True)))
    return rows.take(np.argsort(rows.ids, kind="stable"))


@dataclass(frozen=True, eq=False)
class Ranked:
    """Queries, and which rows are relevant to them: those that share a label, or those that are listed by id."""

    codes: Array  # (q, B) uint8, packed
    own_rows: Array  # (q,) id of the row that is left out of a query's ranking
    labels: Array | None  # (q, w) uint64, from hamming.pack_labels
    neighbours: Array | None = None  # (q, k) int64 ids, which then go before labels

    def rankings(self, queries: range, database: Batch, n_grades: int) -> Array:
        """(n_grades, q, runs) int64: how many rows of each grade the runs of these queries have, from rank 1 on.

        The database comes from in_order. The grade is the number of shared labels, the last one that many or more.
        """
        found = [self._runs(i, database, n_grades) for i in queries]
        counts = np.zeros((n_grades, len(queries), max(1, *(len(grades) for grades, _ in found))), np.int64)
        for i, (grades, lengths) in enumerate(found):
            counts[grades, i, np.arange(len(grades))] = lengths
        return counts

    def _runs(self, i: int, database: Batch, n_grades: int) -> tuple[Array, Array]:
        """Grade and length of each run of query i."""
        n = len(database.ids)
        distances = hamming.distances(self.codes[i : i + 1], database.x, np.zeros(n, np.int64), np.arange(n))
        order = np.argsort(distances.astype(np.uint16), kind="stable")
        grades = self._grades(i, database, n_grades)[order]
        grades = grades[grades != OWN]
        starts = np.flatnonzero(np.diff(grades, prepend=OWN))
        return grades[starts], np.diff(starts, append=len(grades))

    def _grades(self, i: int, database: Batch, n_grades: int) -> Array:
        """(n,) int16, OWN where the row is not ranked."""
        if self.neighbours is not None:
            grades = np.isin(database.ids, self.neighbours[i]).astype(np.int16)
        elif self.labels is None or database.y is None:
            raise ValueError("expected queries and rows with labels, found one of them without")
        else:
            shared = np.bitwise_count(database.y & self.labels[i]).sum(axis=1, dtype=np.int64)
            grades = np.minimum(shared, n_grades - 1).astype(np.int16)
        grades[database.ids == self.own_rows[i]] = OWN
        return grades
