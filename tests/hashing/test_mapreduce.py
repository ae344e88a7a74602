import numpy as np
import pytest

from hashing.mapreduce import FAN_IN, Batch, Data, Sum, merge_tree
from hashing.statistics import Sample, keyed_hash
from tests.conftest import blobs, cut


def test_the_tree_has_a_fixed_shape_and_keeps_the_order():
    shape = merge_tree(map(str, range(20)), lambda group: f"({' '.join(group)})")
    assert shape == "((0 1 2 3 4 5 6 7) (8 9 10 11 12 13 14 15) (16 17 18 19))"
    assert merge_tree(iter(["only"]), lambda group: "merged") == "only"


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 63, 64, 65, 600])
def test_the_tree_loses_nothing_and_holds_few_states(n):
    held, most = [0], [0]

    def states():
        for i in range(n):
            held[0] += 1
            most[0] = max(most[0], held[0])
            yield [i]

    def merge(group):
        assert 2 <= len(group) <= 2 * FAN_IN
        held[0] -= len(group) - 1
        return [i for state in group for i in state]

    assert merge_tree(states(), merge) == list(range(n))
    assert most[0] <= FAN_IN * 4


def test_the_tree_needs_a_state():
    with pytest.raises(ValueError, match="expected at least one state"):
        merge_tree([], lambda group: group)


def test_sum_adds_in_float64(in_process):
    batch = blobs(1000, 8)
    shards = cut(batch, 5)
    total, n = Data(shards, in_process).reduce(Sum(lambda b: (b.x.sum(0, dtype=np.float64), len(b.x))))
    assert total.dtype == n.dtype == np.float64
    np.testing.assert_allclose(total, batch.x.sum(0, dtype=np.float64), rtol=1e-12)
    assert n == 1000


@pytest.mark.parametrize("block", [1, 7, 50, 100])
@pytest.mark.parametrize("labelled", [True, False])
def test_sum_takes_no_more_rows_at_a_time_than_a_block(block, labelled, in_process):
    rows = blobs(50) if labelled else blobs(50)._replace(y=None)
    sizes = []

    def terms(rows):
        sizes.append(len(rows.x))
        return rows.ids.sum(), len(rows.x), 0 if rows.y is None else rows.y.sum()

    found = Data([[rows], [rows.take(slice(0, 0))]], in_process).reduce(Sum(terms, block))
    assert found == (rows.ids.sum(), 50, rows.y.sum() if labelled else 0)
    assert max(sizes) == min(block, 50)
    assert sizes[-1] == 0  # a batch without rows has terms too


def test_rows_are_mapped_beside_their_shards(in_process, ray_executor):
    batch = blobs(300, 4)
    sums = []
    for executor in (in_process, ray_executor):
        doubled = Data(cut(batch, 3), executor).map_rows(lambda b: b._replace(x=2 * b.x))
        sums.append(doubled.map_rows(lambda b: b._replace(x=b.x + 1)).reduce(Sum(lambda b: (b.x.sum(0),)))[0])
    np.testing.assert_array_equal(*sums)
    np.testing.assert_allclose(sums[0], (2 * batch.x.astype(np.float64) + 1).sum(0), rtol=1e-5)


def test_a_sample_depends_on_ids_and_seed_alone(in_process):
    batch = blobs(2000)
    expected = Data(cut(batch, 1), in_process).reduce(Sample(50, seed=3))
    smallest = np.sort(np.argsort(keyed_hash(batch.ids, 3))[:50])
    np.testing.assert_array_equal(expected.ids, batch.ids[smallest])
    np.testing.assert_array_equal(expected.x, batch.x[smallest])
    np.testing.assert_array_equal(expected.y, batch.y[smallest])
    shuffled = batch.take(np.random.default_rng(0).permutation(2000))
    for rows, n_shards in ((batch, 4), (batch, 7), (shuffled, 5)):
        found = Data(cut(rows, n_shards, 37), in_process).reduce(Sample(50, seed=3))
        for a, b in zip(expected, found, strict=True):
            np.testing.assert_array_equal(a, b)
    other = Data(cut(batch, 1), in_process).reduce(Sample(50, seed=4))
    assert len(np.intersect1d(other.ids, expected.ids)) < 10
    everything = Data(cut(batch, 3), in_process).reduce(Sample(5000))
    np.testing.assert_array_equal(everything.ids, batch.ids)


def test_keyed_hashes_are_uniform_and_distinct():
    ids = np.concatenate([np.arange(50_000), np.arange(1000) - 2**62])
    for seed in (0, 1, 2**63 + 5):
        keys = keyed_hash(ids, seed)
        assert len(np.unique(keys)) == len(ids)
        counts = np.bincount((keys >> np.uint64(58)).astype(int), minlength=64)
        assert ((counts - len(ids) / 64) ** 2 / (len(ids) / 64)).sum() < 120  # chi-square, 63 degrees: p < 1e-5
    assert keyed_hash(np.array([0]), 0)[0] != keyed_hash(np.array([0]), 1)[0]


def test_taking_rows_selects_them_in_every_field():
    batch = Batch(np.arange(4), np.arange(8).reshape(4, 2))
    assert batch.take(slice(1, 3)).ids.tolist() == [1, 2]
    assert batch.take(batch.ids > 2).x.tolist() == [[6, 7]]
    assert batch.take([0]).y is None


def test_a_sum_needs_rows(in_process):
    with pytest.raises(ValueError, match="expected at least one row"):
        Data([[], []], in_process).reduce(Sum(lambda b: (len(b.x),)))
