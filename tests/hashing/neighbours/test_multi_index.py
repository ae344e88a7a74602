"""Multi-index hashing returns what a scan returns, over one part and over many."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from hashing.hamming import scan
from hashing.neighbours import multi_index, multi_index_kernels
from hashing.neighbours.multi_index import MultiIndex, index_codes

RNG = np.random.default_rng(0)


def clustered(n, width, share=0.05, centres=40):
    """Codes that differ from some centres by few bits."""
    flips = np.packbits(RNG.random((n, 8 * width)) < share, axis=1)
    return RNG.integers(0, 256, (centres, width), dtype=np.uint8)[RNG.integers(0, centres, n)] ^ flips


def drawn_ids(n):
    """Distinct ids from the whole range of int64, in any order."""
    return RNG.permutation(np.unique(RNG.integers(-(2**63), 2**63, n + 9, np.int64))[:n])


def indexed(ids, codes, n_parts=1):
    """An index of rows that are dealt to parts of different sizes at random."""
    of_row = np.minimum(RNG.integers(0, n_parts, len(ids)), RNG.integers(0, n_parts, len(ids)))
    parts = []
    for part in range(n_parts):
        rows = np.flatnonzero(of_row == part)
        rows = rows[np.argsort(ids[rows])]
        parts += [index_codes(ids[rows], codes[rows])] if len(rows) else []
    return MultiIndex(parts, codes.shape[1])


def by_hand(queries, ids, codes):
    """All distances and ids (q, n), sorted by (distance, id)."""
    distances = np.bitwise_count(queries[:, None] ^ codes[None]).sum(axis=2, dtype=np.int32)
    order = np.lexsort((np.broadcast_to(ids, distances.shape), distances))
    return np.take_along_axis(distances, order, 1), ids[order]


def assert_right(index, queries, ids, codes, ks=(1, 3, 10, 200, 10**6), radii=(0, 1, 2, 5, 9, 40, 5000)):
    distances, in_order = by_hand(queries, ids, codes)
    for k in ks:
        found = index.topk(queries, k)
        assert (found[0].dtype, found[1].dtype) == (np.int32, np.int64)
        np.testing.assert_array_equal(found[0], distances[:, :k])
        np.testing.assert_array_equal(found[1], in_order[:, :k])
    for radius in radii:
        near = distances <= radius
        np.testing.assert_array_equal(index.count_within(queries, radius), near.sum(axis=1))
        found = index.within(queries, radius)
        for column, expected in zip(found, (np.nonzero(near)[0], distances[near], in_order[near]), strict=True):
            assert column.dtype == expected.dtype
            np.testing.assert_array_equal(column, expected)


@pytest.mark.parametrize("share", [0, 1, 1e9], ids=["scan", "both", "index"])
@pytest.mark.parametrize("n_parts", [1, 7])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 12, 16, 25, 32])
def test_finds_what_a_scan_finds(width, n_parts, share, monkeypatch):
    monkeypatch.setattr(multi_index, "SHARE", share)
    ids, codes = drawn_ids(1000), clustered(1000, width)
    queries = np.concatenate([codes[:3], clustered(20, width), RNG.integers(0, 256, (10, width), dtype=np.uint8)])
    if width > 2 and share > 1:  # far rows would take all values of all pieces
        assert_right(indexed(ids, codes, n_parts), queries[:3], ids, codes, (1, 5), (0, 2, 9))
    else:
        assert_right(indexed(ids, codes, n_parts), queries, ids, codes)


@pytest.mark.parametrize("n", [1, 2, 3, 65])
def test_few_and_equal_rows(n):
    ids, codes, queries = drawn_ids(n), clustered(n, 8), clustered(5, 8)
    same = np.repeat(codes[:1], n, axis=0)  # ties by id
    for rows in (codes, same):
        for n_parts in (1, 4):
            assert_right(indexed(ids, rows, n_parts), queries, ids, rows)
            assert_right(indexed(ids, rows, n_parts), queries[:0], ids, rows)
    none = MultiIndex([], 8)
    assert none.topk(queries, 3)[1].shape == (5, 0)
    assert none.within(queries, 3)[1].shape == (0,)


def test_the_index_answers_where_rows_are_near(monkeypatch):
    ids, codes = np.arange(200_000), clustered(200_000, 8, 0.03, 20_000)
    queries = codes[:50] ^ np.uint8(1)
    expected = *scan.topk(queries, codes, 3), scan.count_within(queries, codes, 2)
    monkeypatch.setattr(multi_index, "SHARE", 100)
    monkeypatch.setattr(MultiIndex, "_scan", None)
    for n_parts in (1, 5):
        index = indexed(ids, codes, n_parts)
        found = index.within(queries, 2)
        np.testing.assert_array_equal(np.bincount(found[0], minlength=50), expected[2])
        for one, there in zip((*index.topk(queries, 3), index.count_within(queries, 2)), expected, strict=True):
            np.testing.assert_array_equal(one, there)
        with ThreadPoolExecutor(4) as pool:
            for again in pool.map(lambda _, index=index: index.within(queries, 2), range(8)):
                for one, there in zip(again, found, strict=True):
                    np.testing.assert_array_equal(one, there)


def test_the_index_is_seldom_tried_where_it_does_not_pay(monkeypatch):
    ids, codes = np.arange(50_000), RNG.integers(0, 256, (50_000, 8), dtype=np.uint8)
    index, queries, tried = indexed(ids, codes), RNG.integers(0, 256, (100, 8), dtype=np.uint8), []
    topk = multi_index_kernels.topk
    monkeypatch.setattr(
        multi_index_kernels, "topk", lambda words, *rest: tried.append(len(words)) or topk(words, *rest)
    )
    expected = scan.topk(queries, codes, 10)
    for found, there in zip(index.topk(queries, 10), expected, strict=True):
        np.testing.assert_array_equal(found, there)
    assert tried == [multi_index.TRIED]
    for i in range(96):
        np.testing.assert_array_equal(index.topk(queries[i : i + 1], 10)[1], expected[1][i : i + 1])
    assert 0 < sum(tried[1:]) <= 12


def test_wrong_codes_are_refused():
    index = indexed(np.arange(10), clustered(10, 8))
    with pytest.raises(ValueError, match="expected codes of the same width, found 4 and 8 bytes"):
        index.topk(clustered(2, 4), 3)
    with pytest.raises(ValueError, match="expected k >= 1"):
        index.topk(clustered(2, 8), 0)
    with pytest.raises(ValueError, match="expected a radius >= 0"):
        index.within(clustered(2, 8), -1)
    with pytest.raises(ValueError, match=r"expected 1 to 2\^32 - 1 codes, found 0"):
        index_codes(np.arange(0), clustered(10, 8)[:0])
