"""The batches of an epoch: which rows they hold, in which order, and what of them is in memory."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from hashing.deep import batches as module
from hashing.deep.batches import batches
from hashing.deep.stored import TrainingRows
from hashing.mapreduce import Batch
from hashing.methods.dpsh import DPSH
from tests.conftest import blobs, cut

METHOD = DPSH(n_bits=8, epochs=3, patience=3, batch_size=64, lr=1e-2)
ROWS = blobs(500)


def epochs(method, shards, epoch=0):
    return list(batches(TrainingRows(shards), method, epoch))


def ids(batches):
    return [batch.ids.tolist() for batch in batches]


def trained_rows(method):
    return set(ROWS.ids[~method.held_out(ROWS.ids)].tolist())


@pytest.mark.parametrize(("n_shards", "batch_rows"), [(1, 10**6), (1, 7), (4, 100), (9, 13)])
def test_batches_are_the_same_for_any_cut_while_rows_fit_the_window(n_shards, batch_rows):
    expected = epochs(METHOD, [[ROWS]])
    batches = epochs(METHOD, cut(ROWS, n_shards, batch_rows))
    for one, other in zip(batches, expected, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("window", [1, 4 * 32 * 100, 2**28])
def test_an_epoch_sees_every_row_at_most_once_and_loses_less_than_a_batch(window, monkeypatch):
    monkeypatch.setattr(module, "WINDOW", window)
    seen = [i for batch in ids(epochs(METHOD, cut(ROWS, 5, 30))) for i in batch]
    assert len(seen) == len(set(seen))
    assert set(seen) <= trained_rows(METHOD)
    assert len(seen) == len(trained_rows(METHOD)) // 64 * 64
    for batch in epochs(METHOD, cut(ROWS, 5, 30)):
        assert len(batch.ids) == 64
        np.testing.assert_array_equal(batch.x, ROWS.x[batch.ids])
        np.testing.assert_array_equal(batch.y, ROWS.y[batch.ids])


def test_memory_is_bounded_by_the_window_for_any_shard_size(monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 4 * 32 * 100)
    read = []

    def shard():
        for batch in cut(ROWS, 1, 50)[0]:
            read.append(len(batch.ids))
            yield batch

    next(batches(TrainingRows([shard()]), METHOD, 0))
    assert sum(read) <= 150


def test_a_window_is_in_memory_once_and_twice_while_it_is_assembled(monkeypatch):
    monkeypatch.setattr(module, "WINDOW", 2**23)

    def shard():
        for part in range(32):
            yield Batch(np.arange(1000) + 1000 * part, np.zeros((1000, 256), np.float32))  # 1 MB

    tracemalloc.start()
    try:
        rows = sum(len(batch.ids) for batch in batches(TrainingRows([shard()]), METHOD, 0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows > 30_000
    assert 2 * module.WINDOW < peak < 2.6 * module.WINDOW


def test_each_epoch_has_its_own_order():
    first, second = (ids(epochs(METHOD, cut(ROWS, 3), epoch)) for epoch in (0, 1))
    assert first != second
    assert ids(epochs(METHOD, cut(ROWS, 3), 0)) == first
    assert ids(epochs(replace(METHOD, seed=1), cut(ROWS, 3), 0)) != first


def test_fewer_rows_than_a_batch_are_one_batch():
    few = ROWS.take(slice(0, 20))
    batches = epochs(METHOD, [[few]])
    assert [len(batch.ids) for batch in batches] == [(~METHOD.held_out(few.ids)).sum()]
