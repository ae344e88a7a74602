"""Multi-index hashing returns what a scan returns."""

import numpy as np
import pytest

from hashing.hamming import multi_index, multi_index_kernels, scan
from hashing.hamming.multi_index import MultiIndex

RNG = np.random.default_rng(0)


def clustered(n, width, share=0.05, centres=40):
    """Codes that differ from some centres by few bits."""
    flips = np.packbits(RNG.random((n, 8 * width)) < share, axis=1)
    return RNG.integers(0, 256, (centres, width), dtype=np.uint8)[RNG.integers(0, centres, n)] ^ flips


def assert_equal_to_scan(index, queries):
    for k in (1, 3, 10, 200, 10**6):
        for found, expected in zip(index.topk(queries, k), scan.topk(queries, index.codes, k), strict=True):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)
    for radius in (0, 1, 2, 5, 9, 40, 5000):
        counts = index.count_within(queries, radius)
        np.testing.assert_array_equal(counts, scan.count_within(queries, index.codes, radius))
        for found, expected in zip(
            index.within(queries, radius), scan.within(queries, index.codes, radius), strict=True
        ):
            assert found.dtype == expected.dtype
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("share", [0, 1, 1e9], ids=["scan", "both", "index"])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 12, 16, 25, 32])
def test_finds_what_a_scan_finds(width, share, monkeypatch):
    monkeypatch.setattr(multi_index, "SHARE", share)
    codes = clustered(1000, width)
    queries = np.concatenate([codes[:3], clustered(20, width), RNG.integers(0, 256, (10, width), dtype=np.uint8)])
    if width > 4 and share > 1:  # far rows would take all values of all pieces
        index = MultiIndex(codes)
        for found, expected in zip(index.topk(queries[:3], 5), scan.topk(queries[:3], codes, 5), strict=True):
            np.testing.assert_array_equal(found, expected)
        for found, expected in zip(index.within(queries, 9), scan.within(queries, codes, 9), strict=True):
            np.testing.assert_array_equal(found, expected)
    else:
        assert_equal_to_scan(MultiIndex(codes), queries)


@pytest.mark.parametrize("n", [1, 2, 3, 65])
def test_few_and_equal_rows(n):
    assert_equal_to_scan(MultiIndex(clustered(n, 8)), clustered(5, 8))
    assert_equal_to_scan(MultiIndex(np.repeat(clustered(1, 8), n, axis=0)), clustered(5, 8))  # ties by position
    assert_equal_to_scan(MultiIndex(clustered(n, 8)), clustered(5, 8)[:0])


def test_the_index_answers_queries_with_near_rows(monkeypatch):
    codes = clustered(200_000, 8, 0.03, 20_000)
    index, queries = MultiIndex(codes), codes[:50] ^ np.uint8(1)
    expected = scan.topk(queries, codes, 3), scan.within(queries, codes, 2)
    monkeypatch.setattr(multi_index, "SHARE", 10)
    monkeypatch.setattr(scan, "topk", None)
    monkeypatch.setattr(scan, "within", None)
    monkeypatch.setattr(scan, "count_within", None)
    for found, there in zip(
        (*index.topk(queries, 3), *index.within(queries, 2)), (*expected[0], *expected[1]), strict=True
    ):
        np.testing.assert_array_equal(found, there)


def test_the_index_is_seldom_tried_if_it_does_not_pay(monkeypatch):
    codes = RNG.integers(0, 256, (50_000, 8), dtype=np.uint8)
    index, queries, tried = MultiIndex(codes), RNG.integers(0, 256, (100, 8), dtype=np.uint8), []
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
    index = MultiIndex(clustered(10, 8))
    with pytest.raises(ValueError, match="expected codes of the same width, found 4 and 8 bytes"):
        index.topk(clustered(2, 4), 3)
    with pytest.raises(ValueError, match="expected k >= 1"):
        index.topk(clustered(2, 8), 0)
    with pytest.raises(ValueError, match="expected a radius >= 0"):
        index.within(clustered(2, 8), -1)
    with pytest.raises(ValueError, match=r"expected 1 to 2\^32 - 1 codes, found 0"):
        MultiIndex(clustered(10, 8)[:0])
