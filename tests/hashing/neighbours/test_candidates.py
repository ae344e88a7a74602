"""Candidates against a sort of all distances, for any cut into shards and any executor."""

import pickle
from functools import reduce
from itertools import pairwise

import numpy as np
import pytest

from hashing import bits
from hashing.mapreduce import Batch, Data, fold, merge_tree
from hashing.neighbours import candidates
from hashing.neighbours.candidates import NO_DISTANCE, AsymmetricTopK, CountWithin, TopK, Within
from tests.conftest import cut


def rows(n, n_bits, seed=0):
    """Return codes with many ties, with ids in random order, some of them negative."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(3 * n + 1)[:n] - n
    return Batch(ids, bits.pack(rng.random((n, n_bits)) < 0.2))


def distances(queries, x, n_bits):
    ours, theirs = bits.unpack(queries, n_bits), bits.unpack(x, n_bits)
    return (ours[:, None] != theirs[None]).sum(axis=2, dtype=np.int32)


def table(distances, ids, k):
    """Return distances and ids of the first k of distances (q, n), by (distance, id)."""
    order = np.lexsort((np.broadcast_to(ids, distances.shape), distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, 1), ids[order]


def over(statistic, batch, n_shards, size=100):
    states = [fold(pickle.loads(pickle.dumps(statistic)), shard) for shard in cut(batch, n_shards, size)]
    for state in states:  # as Ray does, in shared memory
        for array in state if isinstance(state, tuple) else (state,):
            array.flags.writeable = False
    return statistic.finish(merge_tree(states, lambda group: reduce(statistic.merge, group)))


def same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


CUTS = [(1, 500), (1, 33), (4, 77), (7, 500)]


@pytest.mark.parametrize("n_bits", [1, 7, 16, 70])
@pytest.mark.parametrize("k", [1, 9, 500])
def test_nearest_codes_equal_a_sort_of_all_pairs(n_bits, k):
    batch, queries = rows(500, n_bits), rows(20, n_bits, seed=1).x
    expected = table(distances(queries, batch.x, n_bits), batch.ids, k)
    for n_shards, size in CUTS:
        same(over(TopK(queries, k), batch, n_shards, size), expected)


@pytest.mark.parametrize("n_bits", [1, 7, 16, 70])
@pytest.mark.parametrize("k", [1, 9, 500])
@pytest.mark.parametrize("tied", [True, False])
def test_asymmetric_neighbours_equal_a_sort_of_all_pairs(n_bits, k, tied):
    batch, rng = rows(500, n_bits), np.random.default_rng(2)
    u = rng.integers(-2, 3, (20, n_bits)).astype(np.float32) if tied else rng.normal(size=(20, n_bits)).astype("f4")
    differ = (u >= 0)[:, None] != bits.unpack(batch.x, n_bits)[None]
    costs = np.where(differ, np.abs(u.astype(np.float64))[:, None], 0)
    found = [over(AsymmetricTopK(u, k), batch, n_shards, size) for n_shards, size in CUTS]
    for other in found[1:]:
        same(other, found[0])
    if tied:  # sums of whole numbers are exact
        same(found[0], table(costs.sum(axis=2), batch.ids, k))
    np.testing.assert_allclose(found[0][0], table(costs.sum(axis=2), batch.ids, k)[0], rtol=1e-14)
    of_id = {i: row for row, i in enumerate(batch.ids.tolist())}
    again = np.array([[costs[i, of_id[j]].sum() for j in ids] for i, ids in enumerate(found[0][1].tolist())])
    np.testing.assert_allclose(again, found[0][0], rtol=1e-14)


def test_asymmetric_distances_rank_as_inner_products_do():
    batch, u = rows(300, 24), np.random.default_rng(3).normal(size=(5, 24)).astype(np.float32)
    found, ids = over(AsymmetricTopK(u, 300), batch, 2)
    codes = 2.0 * bits.unpack(batch.x, 24)[np.argsort(batch.ids)[np.searchsorted(np.sort(batch.ids), ids)]] - 1
    products = np.einsum("qb,qnb->qn", u.astype(np.float64), codes)
    np.testing.assert_allclose(found, (np.abs(u).sum(axis=1, dtype=float)[:, None] - products) / 2, atol=1e-12)


@pytest.mark.parametrize("radius", [0, 3, 70, 5000])
def test_all_rows_within_a_radius_are_found(radius):
    batch, queries = rows(500, 16), rows(20, 16, seed=1).x
    every = distances(queries, batch.x, 16)
    i, j = np.nonzero(every <= radius)
    order = np.lexsort((batch.ids[j], every[i, j], i))
    expected = i[order], every[i, j][order], batch.ids[j][order]
    for n_shards, size in CUTS:
        same(over(Within(queries, radius), batch, n_shards, size), expected)
        counts = over(CountWithin(queries, radius), batch, n_shards, size)
        np.testing.assert_array_equal(counts, (every <= radius).sum(axis=1))


def test_too_few_rows_are_padded():
    batch, queries = rows(3, 8), rows(2, 8, seed=1).x
    found, ids = over(TopK(queries, 5), batch, 2)
    same((found[:, :3], ids[:, :3]), table(distances(queries, batch.x, 8), batch.ids, 3))
    assert (found[:, 3:] == NO_DISTANCE).all()
    assert (ids[:, 3:] == -1).all()
    nothing = batch.take(slice(0))
    assert (over(TopK(queries, 5), nothing, 1)[1] == -1).all()
    found, ids = over(AsymmetricTopK(np.ones((2, 8), np.float32), 5), batch, 2)
    assert np.isinf(found[:, 3:]).all()
    assert len(over(Within(queries, 8), nothing, 1)[0]) == 0


def test_ray_gives_the_same_bits(in_process, ray_executor):
    batch, queries, u = rows(700, 20), rows(15, 20, seed=1).x, np.random.default_rng(5).normal(size=(15, 20))
    for statistic in (TopK(queries, 40), AsymmetricTopK(u.astype(np.float32), 40), Within(queries, 5)):
        ours, theirs = (Data(cut(batch, 12), executor).reduce(statistic) for executor in (in_process, ray_executor))
        same(ours, theirs)


def test_blocks_of_queries_bound_the_states(monkeypatch):
    monkeypatch.setattr(candidates, "STATE_BYTES", 100 * candidates.ENTRY_BYTES)
    sizes = np.random.default_rng(6).integers(0, 60, 200)
    blocks = list(candidates.query_blocks(sizes))
    np.testing.assert_array_equal(np.concatenate([np.arange(200)[block] for block in blocks]), np.arange(200))
    assert all(sizes[block].sum() <= 100 for block in blocks)
    assert all(sizes[block].sum() + sizes[after][0] > 100 for block, after in pairwise(blocks))
    assert list(candidates.query_blocks(np.zeros(3, np.int64))) == [slice(0, 3)]
    with pytest.raises(ValueError, match="at most 100 rows for a query, found 101 for query 2"):
        list(candidates.query_blocks(np.array([1, 100, 101])))


def test_wrong_codes_are_refused():
    batch = rows(10, 16)
    with pytest.raises(ValueError, match="k >= 1, found 0"):
        TopK(batch.x, 0)
    with pytest.raises(ValueError, match="the same width, found 1 and 2 bytes"):
        over(TopK(batch.x[:, :1], 1), batch, 1)
    with pytest.raises(ValueError, match=r"codes \(n, 1\), found shape \(10, 2\)"):
        over(AsymmetricTopK(np.ones((1, 8), np.float32), 1), batch, 1)
    with pytest.raises(ValueError, match="NaN"):
        AsymmetricTopK(np.full((1, 16), np.nan, np.float32), 1)
    for statistic in (Within, CountWithin):
        with pytest.raises(ValueError, match="radius >= 0, found -1"):
            statistic(batch.x, -1)
