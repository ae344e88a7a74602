"""A process builds the network of a model once, whichever copy of the function it gets, from however many threads."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Thread

import numpy as np
import pytest
import torch

from hashing import blas
from hashing.deep import fitted, networks
from hashing.families import DeepHash
from tests.conftest import blobs

D, BITS = 12, 8
ROWS = blobs(300, D)


def function(seed):
    """A DeepHash of the network mlp, of random parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = networks.build("mlp", D, BITS)
    return DeepHash(tuple(part.numpy() for part in network.state_dict().values()), "mlp", D, BITS)


FIRST, SECOND = function(1), function(2)


def copy(of):
    return pickle.loads(pickle.dumps(of))


@pytest.fixture
def built(monkeypatch):
    """The networks that were built since the test began."""
    fitted._latest.clear()
    found, build = [], networks.build

    def counted(*args):
        found.append(args)
        return build(*args)

    monkeypatch.setattr(fitted, "build", counted)
    return found


def test_copies_of_a_model_share_one_network(built):
    codes = [copy(FIRST).encode(ROWS.x) for _ in range(3)]
    assert len(built) == 1
    for found in codes:
        np.testing.assert_array_equal(found, codes[0])


def test_another_model_of_the_same_shape_replaces_the_first(built):
    first, second = copy(FIRST).encode(ROWS.x), copy(SECOND).encode(ROWS.x)
    assert len(built) == 2
    assert len(fitted._latest) == 1
    assert (first != second).any()
    np.testing.assert_array_equal(copy(FIRST).encode(ROWS.x), first)
    assert len(built) == 3


def test_threads_that_encode_at_once_build_once_and_get_the_same_codes(built):
    expected, start = FIRST.encode(ROWS.x), Barrier(8)
    fitted._latest.clear()

    def encode(_):
        start.wait()
        return copy(FIRST).encode(ROWS.x)

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(encode, range(8)):
            np.testing.assert_array_equal(found, expected)
    assert len(built) == 2


def test_encoding_does_not_change_the_random_state_of_torch(built):
    before = torch.get_rng_state()
    copy(FIRST).encode(ROWS.x)
    assert len(built) == 1
    assert torch.equal(torch.get_rng_state(), before)


def overlapping(context, inside):
    """Two threads are in a context at once, and the one that entered first leaves first. What the second then finds."""
    entered, left, found = Barrier(2), Barrier(2), []

    def first():
        with context():
            entered.wait()
        left.wait()

    def second():
        with context():
            entered.wait()
            left.wait()
            found.append(inside())

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found[0]


def torch_threads_of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def blas_threads():
    return {library.num_threads for library in blas._libraries().select(user_api="blas").lib_controllers}


def test_torch_has_as_many_threads_as_before_when_overlapping_encodings_end():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert overlapping(fitted.one_thread, torch.get_num_threads) == 1
        assert (torch.get_num_threads(), torch_threads_of_a_new_thread()) == (3, 3)
    finally:
        torch.set_num_threads(before)


def test_blas_has_one_thread_until_the_last_of_overlapping_callers_leaves():
    with blas._libraries().limit(limits=2, user_api="blas"):  # by this thread, which OpenBLAS then obeys alone
        assert overlapping(blas.one_blas_thread, blas_threads) == {1}
        assert blas_threads() == {2}
