"""Multi-index hashing: exact nearest rows and rows within a radius, without a scan of all rows where that pays.

Codes are cut into pieces, and a table for each piece gives the rows with a value. Two codes at distance t differ by at
most t div m bits in one of m pieces, so rows are found by looking up the values near the pieces of a query. The cost
grows with the distance of the nearest rows. Each query therefore has a time budget, a share of the time of a scan, and
is answered by a scan if the budget runs out.

Source: Norouzi, Punjani & Fleet, "Fast Exact Search in Hamming Space With Multi-Index Hashing", TPAMI 2014.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import numpy as np

from ..hamming.checks import check_codes, check_k, check_radius
from ..hamming.layout import read_only
from ..mapreduce import Array, Batch, Statistic, fold
from .candidates import NO_DISTANCE, CountWithin, Table, TopK, Within, empty_table

MAX_LENGTH = 24  # bits of a piece: a table of 2^24 values takes 64 MiB
SHARE = 0.5  # budget of a query, as a share of the time of a scan
TRIED = 16  # queries of a call that try the index first, and calls between tries while most queries end in a scan

T = TypeVar("T")


class IndexedCodes(NamedTuple):
    """Rows and the index of their codes, as C-contiguous arrays, which may be read-only."""

    ids: Array  # (n,) int64, increasing
    words: Array  # (n, W) uint64, the codes padded with zero bytes
    starts: Array  # (m, V + 1) uint32; see multi_index_kernels for these two
    rows: Array  # (m, n) uint32


def index_codes(ids: Array, codes: Array) -> IndexedCodes:
    """Return an index of codes (n, B) uint8 by increasing ids (n,), of 4 bytes for each row and piece."""
    from . import multi_index_kernels

    check_codes(codes, codes)
    if not 0 < len(codes) < 2**32:
        raise ValueError(f"expected 1 to 2^32 - 1 codes, found {len(codes)}")
    words = to_words(codes)
    starts, rows = (np.zeros(*about) for about in layout(*codes.shape)[2:])
    multi_index_kernels.build_tables(words, code_pieces(*codes.shape), starts, rows)
    return IndexedCodes(ids, words, starts, rows)


class MultiIndex:
    """Search indexed rows, such as those of the parts of a version. Threads may share it.

    Parameters
    ----------
    parts : sequence of IndexedCodes
        The ids of all parts are distinct. Each query searches every part, so a few large parts are faster than many
        small ones.
    width : int
        Bytes of a code.
    every : Batch, optional
        All rows by increasing id, for scans: one batch is scanned faster than many parts.

    Examples
    --------
    >>> codes = np.array([[0b00], [0b01], [0b11]], np.uint8)
    >>> index = MultiIndex([index_codes(np.array([4, 7, 9]), codes)], width=1)
    >>> distances, ids = index.topk(codes[:1], k=2)
    >>> distances.tolist(), ids.tolist()
    ([[0, 1]], [[4, 7]])
    """

    def __init__(self, parts: Sequence[IndexedCodes], width: int, every: Batch | None = None) -> None:
        self._parts = [part for part in parts if len(part.ids)]
        self._batches = [Batch(part.ids, part.words.view(np.uint8)[:, :width]) for part in self._parts]
        if every:
            self._batches = [every]
        self.rows = sum(len(part.ids) for part in self._parts)
        self._words = -(-width // 8)
        pieces = [code_pieces(len(part.ids), width) for part in self._parts]
        ends = np.cumsum([0, *map(len, pieces)])
        table = [
            (ends[i], ends[i + 1], part.starts.shape[1], len(part.ids), *(array.ctypes.data for array in part))
            for i, part in enumerate(self._parts)
        ]
        self._index = (
            read_only(np.array(table, np.int64).reshape(-1, 8)),
            read_only(np.concatenate([np.zeros((0, 3), np.int64), *pieces])),
        )
        self._answered: dict[int, float] = {}  # k -> share of the recent queries that the index answered
        self._calls = 0

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "cannot pickle a MultiIndex, which refers to the memory of this process: pass its parts and build it there"
        )

    def topk(self, queries: Array, k: int) -> Table:
        """Return the distances (q, k) int32 and ids of the nearest rows, as the statistic TopK does."""
        from . import multi_index_kernels

        check_k(k)
        k, words = min(k, self.rows), self._to_words(queries)
        distances, ids = empty_table(len(queries), k, NO_DISTANCE, np.int32)
        done, budget = np.zeros(len(queries), bool), self._budget(len(queries))
        for some in (slice(0, TRIED), slice(TRIED, None)) if k else ():
            if len(words[some]) and self._pays(k):
                multi_index_kernels.topk(words[some], *self._index, budget, distances[some], ids[some], done[some])
                self._note(k, done[some])
        order = np.lexsort((ids, distances))
        distances, ids = np.take_along_axis(distances, order, 1), np.take_along_axis(ids, order, 1)
        if k and not done.all():
            distances[~done], ids[~done] = self._scan(TopK(queries[~done], k, sorted_ids=True))
        return distances, ids

    def _pays(self, k: int) -> bool:
        """Return whether the index answered most of the recent queries for k rows, or another try is due."""
        self._calls += 1
        return self._answered.get(k, 1.0) >= 0.5 or self._calls % TRIED == 0

    def _note(self, k: int, done: Array) -> None:
        weight = 0.9 ** len(done)
        self._answered[k] = weight * self._answered.get(k, 1.0) + (1 - weight) * float(done.mean())

    def count_within(self, queries: Array, radius: int) -> Array:
        """Return the number of rows within a radius (q,) int64, as the statistic CountWithin does."""
        counts, _ = self._count(queries, radius)
        return counts

    def _count(self, queries: Array, radius: int) -> tuple[Array, Array]:
        """Return the number of rows within a radius, and whether the index counted them."""
        from . import multi_index_kernels

        check_radius(radius)
        words, counts, done = self._to_words(queries), np.zeros(len(queries), np.int64), np.zeros(len(queries), bool)
        none = np.empty(0, np.int32), np.empty(0, np.int64)
        radius = min(radius, 64 * self._words)
        multi_index_kernels.within(words, *self._index, radius, self._budget(len(words)), *none, counts, done)
        if not done.all():
            counts[~done] = self._scan(CountWithin(queries[~done], radius))
        return counts, done

    def within(self, queries: Array, radius: int) -> tuple[Array, Array, Array]:
        """Return queries, distances and ids of the rows within a radius, as the statistic Within does."""
        from . import multi_index_kernels

        counts, done = self._count(queries, radius)
        words, radius = self._to_words(queries[done]), min(radius, 64 * self._words)
        n = int(counts[done].sum())
        distances, ids = np.empty(n, np.int32), np.empty(n, np.int64)
        if n:
            ends, again = counts[done].cumsum(), np.empty(len(words), bool)
            multi_index_kernels.within(words, *self._index, radius, np.inf, distances, ids, ends, again)
        found = np.repeat(np.flatnonzero(done), counts[done]), distances, ids
        scanned = Within(queries[~done], radius)
        if not done.all():
            places, distances, ids = self._scan(scanned)
            found = scanned.merge(found, (np.flatnonzero(~done)[places], distances, ids))
        return scanned.finish(found)

    def _scan(self, statistic: Statistic[Any, T, Batch]) -> T:
        return statistic.finish(fold(statistic, self._batches))

    def _to_words(self, queries: Array) -> Array:
        check_codes(queries, self._batches[0].x if self._batches else queries)
        return to_words(queries)

    def _budget(self, n_queries: int) -> float:
        """Return the nanoseconds that a query may use; a scan reads the codes once for several queries."""
        per_row = 0.07 + 0.07 * self._words
        return float(SHARE * self.rows * per_row * (1 + 0.5 / max(1, n_queries)))


def code_pieces(n: int, width: int) -> Array:
    """Return the pieces (m, 3) int64 of codes of `width` bytes in an index of n rows: word, first bit, bits.

    Index files depend on it: a change requires a new number of their format.
    """
    length = min(MAX_LENGTH, max(1, n.bit_length() - 1))
    pieces = [
        [word, start, stop - start]
        for word in range(-(-width // 8))
        for start, stop in cut(min(64, 8 * width - 64 * word), length)
    ]
    return read_only(np.array(pieces))


def layout(n: int, width: int) -> list[tuple[tuple[int, ...], str]]:
    """Return the shape and the dtype of each array of an index of n codes of `width` bytes."""
    pieces = code_pieces(n, width)
    starts = len(pieces), 2 ** int(pieces[:, 2].max()) + 1
    return [((n,), "<i8"), ((n, -(-width // 8)), "<u8"), (starts, "<u4"), ((len(pieces), n), "<u4")]


def cut(n_bits: int, length: int) -> list[tuple[int, int]]:
    """Return the bounds of the fewest, about equal, pieces of at most `length` bits.

    >>> cut(64, 24)
    [(0, 21), (21, 42), (42, 64)]
    """
    n = -(-n_bits // length)
    return [(i * n_bits // n, (i + 1) * n_bits // n) for i in range(n)]


def to_words(codes: Array) -> Array:
    """Return codes (n, B) as words (n, W) uint64, padded with zero bytes."""
    padding = -codes.shape[1] % 8
    padded = np.pad(codes, ((0, 0), (0, padding))) if padding else np.ascontiguousarray(codes)
    return read_only(padded.view(np.uint64))
