"""The Hamming scan against numpy on unpacked bits, and against Faiss."""

import itertools
import pickle
import subprocess
import sys

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hashing import bits
from hashing.hamming import kernels, layout, scan

WIDTHS = [1, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 255, 256, 257, 1000, 4096]
N_QUERIES = 7


def clustered(n: int, n_bits: int, seed: int = 0) -> np.ndarray:
    """Return bits (n, n_bits); two thirds of the rows are near another row, for small distances and many ties."""
    rng = np.random.default_rng(seed)
    values = rng.random((n, n_bits)) < 0.5
    third = n // 3
    flips = rng.random((n - third, n_bits)) < 0.1
    values[third:] = values[rng.integers(0, max(third, 1), n - third)] ^ flips
    return rng.permutation(values)


def bits_apart(values: np.ndarray, n_queries: int = N_QUERIES) -> np.ndarray:
    return (values[:n_queries, None] != values).sum(axis=2)  # (q, n)


def tally(distance: np.ndarray, chosen: np.ndarray, n_bits: int) -> np.ndarray:
    return np.array([np.bincount(d[c], minlength=n_bits + 1) for d, c in zip(distance, chosen, strict=True)])


@pytest.mark.parametrize("n_bits", WIDTHS)
def test_every_kernel_equals_brute_force(n_bits):
    values = clustered(333, n_bits)
    codes, distance = bits.pack(values), bits_apart(values)
    queries = codes[:N_QUERIES]
    y = np.random.default_rng(1).random((333, 70)) < 0.04
    labels = layout.pack_labels(y)
    shared = y[:N_QUERIES].astype(int) @ y.T.astype(int)

    total, relevant = scan.histogram(queries, codes, n_bits, labels[:N_QUERIES], labels)
    np.testing.assert_array_equal(total, tally(distance, distance >= 0, n_bits))
    np.testing.assert_array_equal(relevant, tally(distance, shared > 0, n_bits))
    np.testing.assert_array_equal(scan.histogram(queries, codes, n_bits), [total, 0 * total])
    graded = scan.graded_histogram(queries, codes, n_bits, labels[:N_QUERIES], labels, 3)
    for grade, chosen in enumerate([shared == 0, shared == 1, shared >= 2]):
        np.testing.assert_array_equal(graded[grade], tally(distance, chosen, n_bits))

    for radius in (0, 2, n_bits // 3, n_bits, 9999):
        offsets, positions, found = scan.within(queries, codes, radius)
        i, j = np.nonzero(distance <= radius)
        np.testing.assert_array_equal(positions, j)
        np.testing.assert_array_equal(found, distance[i, j])
        np.testing.assert_array_equal(np.repeat(np.arange(N_QUERIES), np.diff(offsets)), i)
        np.testing.assert_array_equal(scan.count_within(queries, codes, radius), np.diff(offsets))

    order = np.argsort(distance, axis=1, kind="stable")
    for k in (1, 5, 100, 333):
        found, positions = scan.topk(queries, codes, k)
        np.testing.assert_array_equal(positions, order[:, :k])
        np.testing.assert_array_equal(found, np.take_along_axis(distance, order, axis=1)[:, :k])
        assert (found.dtype, positions.dtype) == (np.int32, np.int64)

    i, j = np.unravel_index(np.random.default_rng(2).integers(0, distance.size, 50), distance.shape)
    np.testing.assert_array_equal(scan.pair_distances(queries, codes, i, j), distance[i, j])


@pytest.mark.parametrize("few", [1, 10**9])
def test_relevant_rows_by_label_sets_equal_those_by_pairs(few, monkeypatch):
    """Label sets shared by few rows, by most, by all and by none."""
    monkeypatch.setattr(scan, "QUERIES_PER_SET", few)
    rng, values = np.random.default_rng(0), clustered(333, 16)
    y = rng.random((333, 70)) < np.repeat([0.1, 0.7], 35)
    y[:, 3], y[:, 4] = True, False
    sets = np.eye(70, dtype=bool)[[0, 50, 3, 4]] | np.eye(70, dtype=bool)[[1, 50, 3, 4]]
    asked, codes = sets[rng.integers(4, size=40)], bits.pack(values)
    found = scan.histogram(codes[:40], codes, 16, layout.pack_labels(asked), layout.pack_labels(y))
    distance = bits_apart(values, 40)
    np.testing.assert_array_equal(found[0], tally(distance, distance >= 0, 16))
    np.testing.assert_array_equal(found[1], tally(distance, asked.astype(int) @ y.T > 0, 16))


@given(st.integers(1, 300), st.integers(1, 70), st.integers(1, 90), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_any_shape(n_bits, n, k, seed):
    values = clustered(n, n_bits, seed)
    codes, distance = bits.pack(values), bits_apart(values)
    n_queries = len(distance)
    found, positions = scan.topk(codes[:n_queries], codes, k)
    np.testing.assert_array_equal(positions, np.argsort(distance, axis=1, kind="stable")[:, :k])
    np.testing.assert_array_equal(found, np.take_along_axis(distance, positions, axis=1))
    total = scan.histogram(codes[:n_queries], codes, n_bits)[0]
    np.testing.assert_array_equal(total, tally(distance, distance >= 0, n_bits))
    np.testing.assert_array_equal(scan.count_within(codes[:n_queries], codes, k), (distance <= k).sum(axis=1))


@pytest.mark.parametrize("n_bits", [8, 32, 64, 128, 256])
def test_many_blocks_equal_faiss(n_bits, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(scan, "BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr(scan, "TOPK_BYTES", 1 << 14)
    codes = bits.pack(clustered(30_011, n_bits))
    queries = codes[: 2 * layout.ALIGNED_QUERIES]
    index = faiss.IndexBinaryFlat(n_bits)
    index.add(codes)
    for k in (1, 10, 1000):
        found, positions = scan.topk(queries, codes, k)
        expected, _ = index.search(queries, k)
        np.testing.assert_array_equal(found, expected)
        i, column = np.indices(positions.shape).reshape(2, -1)
        np.testing.assert_array_equal(scan.pair_distances(queries, codes, i, positions[i, column]), found.ravel())
        before = np.diff(positions, axis=1) > 0
        assert (before | (np.diff(found, axis=1) > 0)).all()  # ties in order of position, and no row twice
    radius = n_bits // 8
    offsets, positions, found = scan.within(queries, codes, radius)
    limits, _, expected = index.range_search(queries, radius + 1)
    np.testing.assert_array_equal(offsets, limits)
    for start, end in itertools.pairwise(limits):
        np.testing.assert_array_equal(positions[start:end], np.sort(expected[start:end]))
    counts = scan.histogram(queries, codes, n_bits)[0]
    np.testing.assert_array_equal(counts[:, : radius + 1].sum(axis=1), np.diff(offsets))
    assert (counts.sum(axis=1) == len(codes)).all()


@pytest.mark.parametrize("n_bits", [24, 64, 200])
def test_flipping_bits_of_all_codes_and_permuting_rows_changes_nothing(n_bits):
    values = clustered(5000, n_bits)
    flip = np.random.default_rng(3).random(n_bits) < 0.5
    order = np.random.default_rng(4).permutation(5000)
    codes, flipped = bits.pack(values), bits.pack(values ^ flip)
    labels = layout.pack_labels(np.eye(10, dtype=np.uint8)[order % 10])
    expected = scan.histogram(codes[:9], codes, n_bits, labels[:9], labels)
    actual = scan.histogram(flipped[:9], flipped[order], n_bits, labels[:9], labels[order])
    np.testing.assert_array_equal(actual, expected)
    np.testing.assert_array_equal(scan.topk(flipped[:9], flipped, 77), scan.topk(codes[:9], codes, 77))


def test_views_and_read_only_and_unaligned_codes_are_accepted():
    codes = bits.pack(clustered(500, 64))
    expected = scan.histogram(codes[:5], codes, 64)
    buffer = bytearray(codes.nbytes + 1)
    unaligned = np.frombuffer(buffer, np.uint8)[1:].reshape(codes.shape)
    unaligned[:] = codes
    for same in (np.frombuffer(codes.tobytes(), np.uint8).reshape(codes.shape), unaligned, np.asfortranarray(codes)):
        np.testing.assert_array_equal(scan.histogram(codes[:5], same, 64), expected)
    np.testing.assert_array_equal(scan.topk(codes[:5], codes[::2], 9), scan.topk(codes[:5], codes[::2].copy(), 9))


def test_no_queries_and_no_rows():
    codes = bits.pack(clustered(5, 20))
    none = codes[:0]
    assert scan.histogram(none, codes, 20).shape == (2, 0, 21)
    assert not scan.histogram(codes, none, 20).any()
    assert [a.shape for a in scan.topk(codes, none, 3)] == [(5, 0), (5, 0)]
    assert [a.shape for a in scan.topk(none, codes, 3)] == [(0, 3), (0, 3)]
    assert [a.tolist() for a in scan.within(codes, none, 3)] == [[0] * 6, [], []]


@pytest.mark.parametrize("n_classes", [0, 1, 64, 65])
def test_labels_are_packed_64_to_a_word(n_classes):
    y = np.random.default_rng(0).integers(0, 2, (9, n_classes), dtype=np.uint8)
    words = layout.pack_labels(y)
    assert words.shape == (9, -(-n_classes // 64))
    unpacked = words[:, np.arange(n_classes) // 64] >> (np.arange(n_classes) % 64).astype(np.uint64) & np.uint64(1)
    np.testing.assert_array_equal(unpacked, y)


def test_wrong_input_is_refused():
    codes = bits.pack(clustered(9, 12))
    labels = np.ones((9, 1), np.uint64)
    with pytest.raises(ValueError, match="3 bytes for 24 bits, found 2"):
        scan.histogram(codes, codes, 24)
    with pytest.raises(ValueError, match="the same width, found 2 and 1"):
        scan.topk(codes, codes[:, :1], 3)
    with pytest.raises(ValueError, match=r"uint8 .* found \(9, 2\) int64"):
        scan.count_within(codes, codes.astype(np.int64), 3)
    with pytest.raises(ValueError, match=r"B from 1 to 512, found \(9, 513\)"):
        scan.within(np.zeros((9, 513), np.uint8), np.zeros((9, 513), np.uint8), 3)
    with pytest.raises(ValueError, match="zero padding after 12 bits"):
        scan.histogram(codes, codes | np.uint8(128), 12)
    with pytest.raises(ValueError, match="both"):
        scan.histogram(codes, codes, 12, labels)
    with pytest.raises(ValueError, match="uint64 words"):
        scan.histogram(codes, codes, 12, labels, labels.astype(float))
    with pytest.raises(ValueError, match=r"\(9, w\), found"):
        scan.histogram(codes, codes, 12, labels, labels[:5])
    with pytest.raises(ValueError, match="k >= 1"):
        scan.topk(codes, codes, 0)
    with pytest.raises(ValueError, match="radius >= 0"):
        scan.within(codes, codes, -1)
    with pytest.raises(ValueError, match=r"labels \(n, c\)"):
        layout.pack_labels(np.ones(3))


COMPUTE = """
import pickle, sys
from hashing.hamming import scan
codes = pickle.load(sys.stdin.buffer)
sys.stdout.buffer.write(pickle.dumps([scan.topk(part[:5], part, 20) for part in codes]))
"""


def test_processes_that_compile_at_the_same_time_share_the_cache(tmp_path):
    codes = [bits.pack(clustered(100, n_bits)) for n_bits in (8, 32, 64, 128)]
    expected = [scan.topk(part[:5], part, 20) for part in codes]
    for _ in ("compiling", "from the cache"):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", COMPUTE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
            )
            for _ in range(2)
        ]
        for process in processes:
            process.stdin.write(pickle.dumps(codes))
            process.stdin.flush()
        for process in processes:
            output, _ = process.communicate()
            np.testing.assert_array_equal(np.array(pickle.loads(output)), np.array(expected))


def test_every_kernel_has_one_signature():
    codes, labels = bits.pack(clustered(100, 33)), np.ones((100, 2), np.uint64)
    for part, words in ((codes, labels), (codes[::2], labels[::2]), (codes[:, :1].copy(), labels[:, :1])):
        for array in (part, words):
            array.flags.writeable = not array.flags.writeable
            scan.histogram(part[:5], part, 8 * part.shape[1], words[:5], words)
            scan.topk(part[:5], part, 3)
            scan.within(part[:5], part, 3)
    for kernel in (kernels.histogram, kernels.count_within, kernels.within, kernels.topk):
        assert len(kernel.signatures) == 1


def test_the_module_does_not_load_numba():
    look = "sys.exit('numba' in sys.modules or 'torch' in sys.modules)"
    code = f"import sys, hashing.hamming.scan, hashing.evaluation.histograms; {look}"
    subprocess.run([sys.executable, "-c", code], check=True)
