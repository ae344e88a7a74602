"""The Hamming scan of torch tensors equals that of arrays, on the CPU and, if available, on a GPU."""

import numpy as np
import pytest
import torch

from hashing import bits
from hashing.hamming import layout, scan, tensors
from tests.hashing.hamming.test_scan import WIDTHS, clustered


@pytest.fixture(params=["cpu", "cuda"])
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device: the tensor functions were tested only on the CPU")
    return request.param


def both(function, device, *arguments):
    """Check that a function returns the same values and dtypes for arrays and for tensors."""
    tensors = (torch.from_numpy(a).to(device) if isinstance(a, np.ndarray) else a for a in arguments)
    expected, actual = function(*arguments), function(*tensors)
    for one, other in zip(*((r if isinstance(r, tuple) else (r,)) for r in (expected, actual)), strict=True):
        assert (other.device.type, str(other.dtype)) == (device, f"torch.{one.dtype}")
        np.testing.assert_array_equal(other.cpu().numpy(), one)


def every_function(codes, n_bits, device, n_queries=7, n_grades=3):
    queries, rng = codes[:n_queries], np.random.default_rng(n_bits)
    labels = layout.pack_labels(rng.random((len(codes), 70)) < 0.1)
    labelled = queries, codes, n_bits, labels[:n_queries], labels
    both(scan.histogram, device, queries, codes, n_bits)
    both(scan.histogram, device, *labelled)
    both(scan.graded_histogram, device, *labelled, n_grades)
    for radius in (0, 2, n_bits // 3, 10**6):
        both(scan.count_within, device, queries, codes, radius)
        both(scan.within, device, queries, codes, radius)
    for k in (1, 10, 1000):
        both(scan.topk, device, queries, codes, k)
    if len(queries):
        both(scan.pair_distances, device, queries, codes, rng.integers(0, len(queries), 50), rng.integers(0, 9, 50))


@pytest.mark.parametrize("n_bits", WIDTHS)
def test_every_width(n_bits, device):
    every_function(bits.pack(clustered(333, n_bits)), n_bits, device)


@pytest.mark.parametrize("n_bits", [20, 64, 2100])
def test_results_do_not_depend_on_the_tiles(n_bits, device, monkeypatch):
    monkeypatch.setattr(tensors, "TILE", 1 << 13)
    monkeypatch.setattr(tensors, "QUERIES", 5)
    monkeypatch.setattr(tensors, "SLICE", 3)
    every_function(bits.pack(clustered(333, n_bits)), n_bits, device)


def test_the_largest_distance_and_the_most_labels_are_exact(device):
    codes = np.zeros((9, 512), np.uint8)
    codes[3:] = 255
    codes[5, 7] = 254
    both(scan.histogram, device, codes[:5], codes, 4096)
    both(scan.topk, device, codes[:5], codes, 9)
    labels = np.full((9, 65), 2**64 - 1, np.uint64)  # 4160 labels
    both(scan.graded_histogram, device, codes[:, :1], codes[:, :1], 8, labels, labels, 4161)


def test_no_queries_and_no_rows_of_tensors(device):
    codes = bits.pack(clustered(5, 20))
    every_function(codes, 20, device, n_queries=0)
    for function in (scan.topk, scan.within, scan.count_within):
        both(function, device, codes, codes[:0], 3)
    both(scan.histogram, device, codes, codes[:0], 20)


def test_views_are_accepted(device):
    codes = torch.from_numpy(bits.pack(clustered(100, 64))).to(device)
    labels = torch.from_numpy(layout.pack_labels(np.eye(100, dtype=np.uint8))).to(device)
    some = codes[::3, ::2], labels[::3, ::2]
    whole = [part.clone(memory_format=torch.contiguous_format) for part in some]
    expected = scan.histogram(whole[0][:5], whole[0], 32, whole[1][:5], whole[1])
    assert torch.equal(scan.histogram(some[0][:5], some[0], 32, some[1][:5], some[1]), expected)


def test_wrong_tensors_are_refused():
    codes = torch.from_numpy(bits.pack(clustered(9, 12)))
    labels = torch.ones((9, 1), dtype=torch.uint64)
    with pytest.raises(ValueError, match="3 bytes for 24 bits, found 2"):
        scan.histogram(codes, codes, 24)
    with pytest.raises(ValueError, match=r"uint8 .* found \(9, 2\) int64"):
        scan.count_within(codes, codes.long(), 3)
    with pytest.raises(ValueError, match="zero padding after 12 bits"):
        scan.histogram(codes, codes | 128, 12)
    with pytest.raises(ValueError, match="both"):
        scan.histogram(codes, codes, 12, labels)
    with pytest.raises(ValueError, match="uint64 words, found uint64 and float64"):
        scan.histogram(codes, codes, 12, labels, labels.double())
    with pytest.raises(ValueError, match="k >= 1"):
        scan.topk(codes, codes, 0)
    with pytest.raises(ValueError, match="radius >= 0"):
        scan.within(codes, codes, -1)
