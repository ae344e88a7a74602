"""Multi-index hashing: exact nearest rows and rows within a radius, without a scan of all rows where that pays.

Codes are cut into pieces, and a table for each piece gives the rows with a value. Two codes at distance t differ by at
most t div m bits in one of m pieces, so rows are found by looking up the values near the pieces of a query. The cost
grows with the distance of the rows that are sought: each query has a budget in the time of a scan, and is answered by a
scan if that does not suffice.

Source: Norouzi, Punjani & Fleet, "Fast Exact Search in Hamming Space With Multi-Index Hashing", TPAMI 2014.
"""

from __future__ import annotations

import numpy as np

from ..mapreduce import Array
from . import scan
from .checks import check_codes, check_k, check_radius
from .layout import read_only

MAX_LENGTH = 24  # bits of a piece: a table of 2^24 values takes 64 MiB
SHARE = 0.5  # of the time of a scan that a query may use
TRIED = 16  # queries of a call that are tried first, and calls between tries while most queries end in a scan


class MultiIndex:
    """Codes (n, B) uint8 with an index of 4 bytes a row and piece; a word of 64 bits has 64 / log2(n) pieces.

    The methods return what those of hashing.hamming.scan return, bit for bit. They may be called by several threads.
    """

    def __init__(self, codes: Array) -> None:
        from . import multi_index_kernels

        check_codes(codes, codes)
        if not 0 < len(codes) < 2**32:
            raise ValueError(f"expected 1 to 2^32 - 1 codes, found {len(codes)}")
        self.codes = codes
        words = to_words(codes)
        length = min(MAX_LENGTH, max(1, len(codes).bit_length() - 1))
        pieces = [
            [word, start, stop - start]
            for word in range(words.shape[1])
            for start, stop in cut(min(64, 8 * codes.shape[1] - 64 * word), length)
        ]
        starts = np.zeros((len(pieces), 2 ** max(length for _, _, length in pieces) + 1), np.uint32)
        rows = np.empty((len(pieces), len(codes)), np.uint32)
        multi_index_kernels.build(words, read_only(np.array(pieces)), starts, rows)
        self._index = words, read_only(np.array(pieces)), read_only(starts), read_only(rows)
        self._answered: dict[int, float] = {}  # k -> share of the recent queries that the index answered
        self._calls = 0

    def topk(self, queries: Array, k: int) -> tuple[Array, Array]:
        """Return distances and positions as scan.topk does."""
        from . import multi_index_kernels

        check_codes(queries, self.codes)
        check_k(k)
        found = np.empty((len(queries), min(k, len(self.codes))), np.uint64)
        done, words, budget = np.zeros(len(queries), bool), to_words(queries), self._budget(len(queries))
        for part in (slice(0, TRIED), slice(TRIED, None)):
            if len(words[part]) and self._pays(k):
                multi_index_kernels.topk(words[part], *self._index, budget, found[part], done[part])
                self._note(k, done[part])
        found.sort(axis=1)
        distances, positions = unpacked(found)
        if not done.all():
            distances[~done], positions[~done] = scan.topk(queries[~done], self.codes, k)
        return distances, positions

    def _pays(self, k: int) -> bool:
        """Whether the index has answered most of the recent queries for k rows. If not, one call of TRIED is a try."""
        self._calls += 1
        return self._answered.get(k, 1.0) >= 0.5 or self._calls % TRIED == 0

    def _note(self, k: int, done: Array) -> None:
        weight = 0.9 ** len(done)
        self._answered[k] = weight * self._answered.get(k, 1.0) + (1 - weight) * float(done.mean())

    def count_within(self, queries: Array, radius: int) -> Array:
        """Return the number of rows within a radius (q,), as scan.count_within does."""
        from . import multi_index_kernels

        check_codes(queries, self.codes)
        check_radius(radius)
        radius = min(radius, 8 * queries.shape[1])
        counts, done = np.zeros(len(queries) + 1, np.int64), np.zeros(len(queries), bool)
        budget, none = self._budget(len(queries)), np.empty(0, np.uint64)
        multi_index_kernels.within(to_words(queries), *self._index, radius, budget, none, counts, done)
        counts = counts[1:]
        if not done.all():
            counts[~done] = scan.count_within(queries[~done], self.codes, radius)
        return counts

    def within(self, queries: Array, radius: int) -> tuple[Array, Array, Array]:
        """Return offsets, positions and distances, as scan.within does."""
        from . import multi_index_kernels

        offsets = np.concatenate([[0], self.count_within(queries, radius).cumsum()])
        radius = min(radius, 8 * queries.shape[1])
        found, done = np.empty(max(1, offsets[-1]), np.uint64), np.zeros(len(queries), bool)
        budget = self._budget(len(queries))
        multi_index_kernels.within(to_words(queries), *self._index, radius, budget, found, offsets, done)
        distances, positions = unpacked(found[: offsets[-1]])
        if not done.all():
            rest = np.repeat(~done, np.diff(offsets))
            _, positions[rest], distances[rest] = scan.within(queries[~done], self.codes, radius)
        order = np.lexsort((positions, np.repeat(np.arange(len(queries)), np.diff(offsets))))
        return offsets, positions[order], distances[order]

    def _budget(self, n_queries: int) -> float:
        """Return the nanoseconds that a query may use; a scan reads the codes once for several queries."""
        per_row = 0.07 + 0.07 * self._index[0].shape[1]
        return float(SHARE * len(self.codes) * per_row * (1 + 0.5 / max(1, n_queries)))


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


def unpacked(found: Array) -> tuple[Array, Array]:
    """Return the distances, int32, and the positions, int64, of rows as the kernels number them."""
    return (found >> np.uint64(40)).astype(np.int32), (found & np.uint64(2**40 - 1)).astype(np.int64)
