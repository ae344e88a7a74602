"""The Triton kernels, run by Triton's interpreter, equal the CPU kernels. test_triton_kernels.py runs this file.

The interpreter must be chosen before anything imports Triton, so these tests run in a process of their own.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scan import clustered

from hashing import bits
from hashing.hamming import cuda, layout, scan


@pytest.fixture(autouse=True)
def few_rows_and_queries_in_a_program(monkeypatch):
    monkeypatch.setattr(cuda, "MOST_ROWS", 64)
    monkeypatch.setattr(cuda, "GROUP", 2)


def same(name, *arguments):
    """Check that a function returns the same values and dtypes for arrays and for tensors."""
    tensors = (torch.from_numpy(a.copy()) if isinstance(a, np.ndarray) else a for a in arguments)
    expected, actual = getattr(scan, name)(*arguments), getattr(cuda, name)(*tensors)
    for one, other in zip(*((r if isinstance(r, tuple) else (r,)) for r in (expected, actual)), strict=True):
        assert str(other.dtype) == f"torch.{one.dtype}"
        np.testing.assert_array_equal(other.numpy(), one)


def every_function(codes, n_bits, n_queries=3, n_labels=70, n_grades=3):
    queries, rng = codes[:n_queries], np.random.default_rng(n_bits)
    labels = layout.pack_labels(rng.random((len(codes), n_labels)) < 0.1)
    labelled = queries, codes, n_bits, labels[:n_queries], labels
    same("histogram", queries, codes, n_bits)
    same("histogram", *labelled)
    same("graded_histogram", *labelled, n_grades)
    same("within", queries, codes, n_bits // 3)
    same("count_within", queries, codes, 10**6)
    for k in (10, 1000):
        same("topk", queries, codes, k)
    if len(queries):
        places = rng.integers(-n_queries, n_queries, 50), rng.integers(-len(codes), len(codes), 50)
        same("pair_distances", queries, codes, *places)


@pytest.mark.parametrize("n_bits", [1, 32, 33, 96, 129])
def test_every_width(n_bits):
    every_function(bits.pack(clustered(100, n_bits)), n_bits)


@pytest.mark.parametrize("n_bits", [257, 1000])
def test_wide_codes(n_bits):
    codes = bits.pack(clustered(40, n_bits))
    labels = np.arange(40, dtype=np.uint64)[:, None]
    same("histogram", codes[:1], codes, n_bits, labels[:1], labels)
    same("topk", codes[:1], codes, 20)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.data())
def test_any_shapes(data):
    n_bits, n, n_queries = (data.draw(st.integers(*limits)) for limits in ((1, 80), (0, 90), (0, 5)))
    values = data.draw(st.sampled_from([0, 1, 1, 1])) * clustered(n, n_bits, data.draw(st.integers(0, 99)))
    codes, labels = bits.pack(values), layout.pack_labels(clustered(n, data.draw(st.integers(0, 130))))
    queries = codes[:n_queries]
    same("graded_histogram", queries, codes, n_bits, labels[:n_queries], labels, data.draw(st.integers(1, 4)))
    same("topk", queries, codes, data.draw(st.integers(1, 100)))
    same("within", queries, codes, data.draw(st.integers(0, n_bits)))


def test_results_do_not_depend_on_the_parts(monkeypatch):
    monkeypatch.setattr(cuda, "ENTRIES", 100)
    monkeypatch.setattr(cuda, "GROUP", 2)
    every_function(bits.pack(clustered(100, 20)), 20, n_queries=7)


def test_the_largest_distances_and_counts_far_apart():
    codes = np.zeros((40, 512), np.uint8)
    codes[3:] = 255
    codes[5, 7] = 254
    labels = np.arange(40, dtype=np.uint64)[:, None]
    same("histogram", codes[2:3], codes, 4096, labels[2:3], labels)
    same("topk", codes[2:3], codes, 9)


def test_many_words_of_labels():
    codes, labels = np.zeros((9, 1), np.uint8), np.full((9, 65), 2**64 - 1, np.uint64)  # 4160 labels
    same("graded_histogram", codes[:2], codes, 8, labels[:2], labels, 4161)


def test_no_queries_and_no_rows():
    codes = bits.pack(clustered(5, 20))
    every_function(codes, 20, n_queries=0)
    for name in ("topk", "within", "count_within"):
        same(name, codes, codes[:0], 3)
    same("histogram", codes, codes[:0], 20)
    none = np.zeros(0, np.int64)
    same("pair_distances", codes, codes, none, none)


def test_views_are_accepted():
    codes = torch.from_numpy(bits.pack(clustered(100, 64)))
    labels = torch.from_numpy(layout.pack_labels(np.eye(100, dtype=np.uint8)))
    for some in ((codes[::3, ::2], labels[::3, ::2]), (codes[1:, 1:5], labels[1:, :1]), (codes[:, 3:], labels)):
        arrays = [np.ascontiguousarray(part.numpy()) for part in some]
        n_bits = 8 * some[0].shape[1]
        expected = scan.histogram(arrays[0][:5], arrays[0], n_bits, arrays[1][:5], arrays[1])
        actual = cuda.histogram(some[0][:5], some[0], n_bits, some[1][:5], some[1])
        np.testing.assert_array_equal(actual.numpy(), expected)


def test_positions_outside_the_rows_are_refused():
    codes = torch.zeros((3, 2), dtype=torch.uint8)
    rows = torch.tensor([0, 2])
    with pytest.raises(IndexError, match="from -2 to 1, found 0 to 2"):
        cuda.pair_distances(codes, codes[:2], rows, rows)
