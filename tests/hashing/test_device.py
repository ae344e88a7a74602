"""Functions on a torch device beside the same functions in numpy. Here the device is the CPU."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from hashing.device import FEWEST_ROWS
from hashing.families import DeepHash, LinearHash
from hashing.functions import OnDevice
from tests.hashing.test_functions import EVERY, D, K, X


@pytest.mark.parametrize("name", sorted(EVERY))
def test_every_family_has_the_same_values_on_a_device(name):
    function, _ = EVERY[name]
    moved = function.to("cpu")
    assert (moved.n_bits, moved.dim, moved.epochs) == (function.n_bits, D, ())
    np.testing.assert_allclose(moved.project(X), function.project(X), rtol=1e-4, atol=1e-4)
    assert moved.project(X[:0]).shape == (0, function.n_bits)


def test_batches_and_padding_change_no_row():
    function = EVERY["LinearHash"][0].to("cpu")
    x = np.random.default_rng(1).standard_normal((3 * FEWEST_ROWS + 5, D))  # float64, as users have it
    whole = function.project(x)
    function.batches.rows = FEWEST_ROWS
    np.testing.assert_array_equal(function.project(x), whole)
    np.testing.assert_array_equal(function.project(x[7:9]), whole[7:9])
    assert not function.batches.note


def test_rows_compared_by_cosine_are_scaled_before_they_go_to_the_device():
    function = replace(EVERY["NetworkHash"][0], metric="cosine")
    moved = function.to("cpu")
    x = (9 * X).astype(np.uint8) + np.uint8(1)
    np.testing.assert_allclose(moved.project(x), function.project(x), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(moved.project(8.0 * X), moved.project(X))
    with pytest.raises(ValueError, match="found zero in row 2"):
        moved.project(np.where(np.arange(len(X))[:, None] == 2, 0, X))


def test_pixels_go_to_the_device_as_bytes():
    pixels = np.random.default_rng(2).integers(256, size=(300, D), dtype=np.uint8)
    function = EVERY["NetworkHash"][0].to("cpu")
    np.testing.assert_array_equal(function.project(pixels), function.project(pixels.astype(np.float32)))
    function.project(pixels)
    assert function.batches.lanes[0].x.dtype == torch.uint8


def test_a_copy_for_another_process_leaves_the_device_behind():
    function = EVERY["KernelHash"][0].to("cpu")
    expected = function.project(X)
    again = pickle.loads(pickle.dumps(function))
    assert "_batches" not in again.__dict__
    np.testing.assert_array_equal(again.project(X), expected)


def test_bad_vectors_are_refused_as_on_the_cpu():
    function = EVERY["SphericalHash"][0].to("cpu")
    with pytest.raises(ValueError, match=rf"expected vectors of shape \(n, {D}\), found \(40, 2\)"):
        function.project(X[:, :2])
    x = X.astype(np.float64)
    x[3, 0] = 1e300
    with pytest.raises(ValueError, match=r"^row 3: values up to 1e\+300 overflow float32"):
        function.project(x)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_refused():
    with pytest.raises(ValueError, match="expected a GPU for this process, found none"):
        EVERY["LinearHash"][0].to("cuda").project(X)


class Greedy(LinearHash):
    """Needs more memory than there is for a batch of more than `most` rows."""

    most = 64

    def values(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"tried to allocate {len(x)} rows")
        return super().values(x)


def test_batches_are_halved_until_they_fit():
    plain = EVERY["LinearHash"][0]
    greedy = OnDevice(Greedy(plain.weight, plain.threshold), "cpu")
    x = np.tile(X, (30, 1))
    np.testing.assert_allclose(greedy.project(x), plain.project(x), rtol=1e-5, atol=1e-5)
    assert greedy.batches.note == "out of memory on torch on cpu: batches of 64 rows"


def test_a_row_that_does_not_fit_is_refused(monkeypatch):
    monkeypatch.setattr(Greedy, "most", 0)
    plain = EVERY["LinearHash"][0]
    with pytest.raises(ValueError, match=r"^a single row does not fit in the memory of cpu: tried to allocate 1 rows"):
        OnDevice(Greedy(plain.weight, plain.threshold), "cpu").project(X)


def test_bfloat16_rounds_the_products_of_a_network_but_not_its_hash_layer():
    rng = np.random.default_rng(3)
    from hashing.deep import networks

    torch.manual_seed(0)
    network = networks.build("mlp", D, K)
    state = [part.numpy() for part in network.state_dict().values() if part.dim()]
    function = DeepHash(tuple(state), "mlp", D, K)
    x = rng.standard_normal((200, D)).astype(np.float32)
    exact, rounded = function.project(x), function.to("cpu", "bf16").project(x)
    assert rounded.dtype == np.float32
    difference = np.abs(rounded - exact).max()
    assert 1e-6 < difference < 0.05 * np.abs(exact).max()
    assert not np.array_equal(rounded, torch.tensor(rounded).bfloat16().float().numpy())
