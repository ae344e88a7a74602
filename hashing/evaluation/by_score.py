"""Rankings by a real-valued score, such as an estimated distance or the score of a real-valued query: exact, mergeable.

The metrics of a query depend only on how many rows lie between the scores of its relevant rows, and at each of them.
`histogram` finds these scores in one pass over the shards, and counts the rows in a second pass. Its result takes the
place of a histogram by distance in hashing.evaluation.metrics: rows of equal score are tied, as rows at equal Hamming
distance are. `NearestByScore` is the statistic of the first k rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from .. import bits
from ..hamming.checks import check_k
from ..hamming.layout import pack_labels, read_only
from ..mapreduce import Array, Batch, Counts, Data
from ..neighbours.candidates import NearestRows, Table, add_nearest, empty_table
from ..neighbours.id_lookup import IdLookup

CELLS = 2**22  # pairs of queries and rows that are scored at once
SIGN = np.uint32(2**31)
OWN = np.uint32(0xFF800000)  # `ordered` of infinity, the score of a query's own row


class Scores(Protocol):
    """Scores of rows for q queries: the lower, the nearer.

    An implementation must be picklable, pure and deterministic: the score of a row depends neither on the other rows
    of the batch nor on their number, or metrics would depend on the cut into shards. See `InnerProducts`.
    """

    def __call__(self, batch: Batch) -> Array:
        """Return (q, n) float32, finite, which the caller may overwrite."""


@dataclass(frozen=True, eq=False)
class InnerProducts:
    """Scores of packed codes for real-valued queries: -<w, b>, with b in {-1, +1}.

    With w = u, the outputs of the hash function, rows are ranked as by the L1 distance from u to the nearest point with
    the code b. With w = tanh(u / 2), they are ranked as by the L1 distance of sigmoid(u) and the bits 0 and 1, because
    |sigmoid(u) - bit| = (1 - b tanh(u / 2)) / 2.

    Each query's weights are rounded to integers times a power of two, with an error of at most 2^-39 of the largest
    weight (for up to 4,096 bits), so that sums are exact in float64 in any order. They are then rounded to float32.
    """

    weights: Array  # (q, n_bits)

    def __post_init__(self) -> None:
        if self.weights.ndim != 2 or not np.isfinite(self.weights).all():
            raise ValueError(f"expected finite weights (q, n_bits), found shape {self.weights.shape} or NaN, infinity")

    def __call__(self, batch: Batch) -> Array:
        integers, unit = self._rounded
        signs = bits.unpack(batch.x, integers.shape[1]).astype(np.float64) * 2 - 1
        scores: Array = (integers @ signs.T * -unit[:, None]).astype(np.float32)
        return scores

    @cached_property
    def _rounded(self) -> tuple[Array, Array]:
        weights = self.weights.astype(np.float64)
        exponents = np.frexp(np.abs(weights).max(axis=1, initial=0))[1] + weights.shape[1].bit_length() - 52
        return np.rint(np.ldexp(weights, -exponents[:, None])), np.ldexp(1.0, exponents)


@dataclass(frozen=True, eq=False)
class NearestByScore(NearestRows):
    """Statistic: the k rows of the lowest score of each query -> scores (q, k) float32, ids (q, k) int64.

    Sorted by (score, id), and equal for any cut into shards and batches. If there are fewer than k rows, the rest is
    filled with id -1 at score inf. As in TopK, a row with a query's own id is not left out.
    """

    scores: Scores
    n_queries: int
    k: int

    def __post_init__(self) -> None:
        check_k(self.k)

    def zero(self) -> Table:
        return empty_table(self.n_queries, self.k, np.inf, np.float32)

    def update(self, state: Table, batch: Batch) -> Table:
        for rows, scores in scored(self.scores, batch, self.n_queries):
            for i, own in enumerate(scores):
                add_nearest(state, i, own, batch.ids[rows])
        return state


@dataclass(frozen=True, eq=False)
class RankingByScore:
    """Rankings by score. Rows are relevant if they share a label with the query, or are its neighbours.

    The grade of a row is the number of labels that it shares, or 1 for a neighbour.
    """

    scores: Scores
    own_ids: Array  # (q,) int64, distinct, the id that is left out of each query's ranking
    labels: Array | None  # (q, w) uint64, from hamming.layout.pack_labels
    neighbours: IdLookup | None = None  # result of neighbour_lookup; if given, labels are not used
    n_grades: int = 0  # above all grades of rows; 0: grades are not counted

    def blocks(self, batch: Batch) -> Iterator[tuple[Array, Array]]:
        """Yield scores (q, m) float32, infinite for a query's own row, and the grades (q, m) uint16 of rows."""
        for rows, scores in scored(self.scores, batch, len(self.own_ids)):
            block = batch.take(rows)
            own = self._own.find(block.ids)
            scores[own] = np.inf
            grades = self._grades(block)
            grades[own] = 0
            yield scores, grades

    @cached_property
    def _own(self) -> IdLookup:
        return IdLookup(self.own_ids, np.arange(len(self.own_ids)))

    def _grades(self, batch: Batch) -> Array:
        grades = np.zeros((len(self.own_ids), len(batch.ids)), np.uint16)
        if self.neighbours is not None:
            grades[self.neighbours.find(batch.ids)] = 1
        elif self.labels is None or batch.y is None:
            raise ValueError("expected labels of both the queries and the rows, or neighbours of the queries")
        else:
            for mine, theirs in zip(self.labels.T, pack_labels(batch.y).T, strict=True):
                grades += np.bitwise_count(mine[:, None] & theirs)
        return grades


def histogram(ranking: RankingByScore, data: Data) -> Array:
    """Return (2, q, bins) int64: all rows and relevant rows by score, from the lowest score on.

    If the ranking counts grades, (2 + n_grades, q, bins): the rows of grade 0, 1, … follow. A bin holds the rows of one
    score of relevant rows, or the rows between two such scores. The bins of a query are followed by empty ones if
    another query has more. A state takes up to 32 bytes for each relevant row of each query, and 16 more for each
    grade: rank queries in blocks if that is too much.
    """
    relevant_scores = data.reduce(RelevantScores(ranking), "scores of relevant rows")
    return data.reduce(ScoreHistogram(ranking, relevant_scores), "ranks of relevant rows")


@dataclass(frozen=True, eq=False)
class RelevantScores:
    """Statistic: the scores of each query's relevant rows -> (m,) uint64, sorted and distinct.

    The high 32 bits are the position of the query, the low 32 bits an integer that increases with the score.
    """

    ranking: RankingByScore

    def zero(self) -> list[Array]:
        return []

    def update(self, state: list[Array], batch: Batch) -> list[Array]:
        for scores, grades in self.ranking.blocks(batch):
            i, j = grades.nonzero()
            state.append(i.astype(np.uint64) << np.uint64(32) | ordered(scores[i, j]))
        return state

    def merge(self, left: list[Array], right: list[Array]) -> list[Array]:
        return left + right

    def finish(self, state: list[Array]) -> Array:
        found = np.sort(np.concatenate([np.zeros(0, np.uint64), *state]))
        distinct: Array = found[np.append(True, found[1:] != found[:-1])[: len(found)]]
        return distinct


@dataclass(frozen=True, eq=False)
class ScoreHistogram(Counts):
    """Statistic: all and relevant rows by score, and those of each grade; see `histogram`."""

    ranking: RankingByScore
    relevant_scores: Array  # result of RelevantScores

    @cached_property
    def _ends(self) -> Array:
        """Return (q + 1,) int64, where the scores of each query start and end."""
        queries = (self.relevant_scores >> np.uint64(32)).astype(np.int64)
        return np.searchsorted(queries, np.arange(len(self.ranking.own_ids) + 1))

    def zero(self) -> Array:
        counts = 2 + self.ranking.n_grades
        return np.zeros((counts, 2 * len(self.relevant_scores) + len(self.ranking.own_ids)), np.int64)

    def update(self, state: Array, batch: Batch) -> Array:
        from . import score_kernels

        levels = read_only(self.relevant_scores.astype(np.uint32))
        for scores, grades in self.ranking.blocks(batch):
            score_kernels.count_scores(ordered(scores), grades, levels, self._ends, OWN, state)
        return state

    def finish(self, state: Array) -> Array:
        widths = 2 * np.diff(self._ends) + 1
        found = np.zeros((len(state), len(widths), widths.max(initial=1)), np.int64)
        found[:, np.arange(found.shape[2]) < widths[:, None]] = state
        return found


def scored(scores: Scores, batch: Batch, n_queries: int) -> Iterator[tuple[slice, Array]]:
    """Yield blocks of rows of a batch with their scores (q, m). Raises ValueError if a score is not finite."""
    step = max(1, CELLS // max(1, n_queries))
    for start in range(0, len(batch.ids), step):
        rows = slice(start, start + step)
        found = scores(batch.take(rows))
        if not np.isfinite(found).all():
            raise ValueError("expected finite scores, found NaN or infinity")
        yield rows, found


def ordered(scores: Array) -> Array:
    """Return integers (n,) uint32 that are in the same order as scores (n,) float32."""
    words = (scores + np.float32(0)).view(np.uint32)  # -0.0 + 0.0 is 0.0
    return np.where(words & SIGN, ~words, words | SIGN)
