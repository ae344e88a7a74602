"""Rankings without ties: rows at equal distance are ordered by id, as by a stable sort of rows that are stored by id.

The metrics of a ranking depend only on its runs: maximal sequences of consecutive ranks with the same grade. A ranking
is therefore represented as a histogram over runs instead of distances, and the rank-based functions of
hashing.evaluation.metrics return its metrics.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..hamming import scan
from ..hamming.layout import pack_labels
from ..mapreduce import Array, Batch, Shard

MAX_ROWS = 10**6
NOT_RANKED = -1  # grade of a query's own row


def rows_by_id(shards: Iterable[Shard]) -> Batch:
    """Return all rows of shards of packed codes, sorted by id. y holds packed labels (n, w) uint64, or is None.

    Raises ValueError if there are no rows, or more than MAX_ROWS: RankingById sorts them in memory, once per query.
    """
    batches, n = [], 0
    for batch in (batch for shard in shards for batch in shard):
        batches.append((batch.ids, batch.x, *(() if batch.y is None else [pack_labels(batch.y)])))
        if (n := n + len(batch.ids)) > MAX_ROWS:
            raise ValueError(f"expected at most {MAX_ROWS:,} rows to rank by id, found more")
    if not n:
        raise ValueError("expected at least one row to rank, found none in all shards together")
    rows = Batch(*map(np.concatenate, zip(*batches, strict=True)))
    return rows.take(np.argsort(rows.ids, kind="stable"))


@dataclass(frozen=True, eq=False)
class RankingById:
    """Rankings by (distance, id). Rows are relevant if they share a label with the query, or are its neighbours."""

    codes: Array  # (q, B) uint8, packed
    own_ids: Array  # (q,) int64, the id that is left out of each query's ranking
    labels: Array | None  # (q, w) uint64, from hamming.layout.pack_labels
    neighbours: Array | None = None  # (q, k) int64 ids of the relevant rows; if given, labels are not used

    def run_counts(self, queries: range, database: Batch, n_grades: int) -> Array:
        """Count the rows of each grade in each run of the rankings of `queries`.

        Parameters
        ----------
        queries
            Positions in `codes`.
        database
            Result of `rows_by_id`.
        n_grades
            The grade of a row is the number of labels that it shares with the query, at most n_grades - 1. With
            neighbours it is 0 or 1.

        Returns
        -------
        Array
            (n_grades, len(queries), runs) int64: runs from rank 1 on, zero beyond the last run of a query.

        Raises
        ------
        ValueError
            If there are no neighbours, and the queries or the rows have no labels.
        """
        runs = [self._runs(i, database, n_grades) for i in queries]
        counts = np.zeros((n_grades, len(queries), max([1, *(len(grades) for grades, _ in runs)])), np.int64)
        for i, (grades, lengths) in enumerate(runs):
            counts[grades, i, np.arange(len(grades))] = lengths
        return counts

    def _runs(self, i: int, database: Batch, n_grades: int) -> tuple[Array, Array]:
        """Return the grades and the lengths of the runs of query i."""
        n = len(database.ids)
        distances = scan.pair_distances(self.codes[i : i + 1], database.x, np.zeros(n, np.int64), np.arange(n))
        order = np.argsort(distances.astype(np.uint16), kind="stable")
        grades = self._grades(i, database, n_grades)[order]
        grades = grades[grades != NOT_RANKED]
        starts = np.flatnonzero(np.diff(grades, prepend=NOT_RANKED))
        return grades[starts], np.diff(starts, append=len(grades))

    def _grades(self, i: int, database: Batch, n_grades: int) -> Array:
        """Return (n,) int16, the grade of each row for query i."""
        if self.neighbours is not None:
            grades = np.isin(database.ids, self.neighbours[i]).astype(np.int16)
        elif self.labels is None or database.y is None:
            raise ValueError("expected labels of both the queries and the rows, or neighbours of the queries")
        else:
            shared = np.bitwise_count(database.y & self.labels[i]).sum(axis=1, dtype=np.int64)
            grades = np.minimum(shared, n_grades - 1).astype(np.int16)
        grades[database.ids == self.own_ids[i]] = NOT_RANKED
        return grades
