"""Distances of candidates against sums in float64, for any cut into shards."""

import numpy as np
import pytest

from hashing.mapreduce import Batch
from hashing.neighbours.reranking import CandidateDistances
from tests.hashing.neighbours.test_candidates import CUTS, over, same


def test_distances_of_candidates_are_exact():
    rng = np.random.default_rng(4)
    batch = Batch(rng.permutation(1000)[:400], rng.normal(size=(400, 9)).astype(np.float32))
    queries = rng.normal(size=(6, 9)).astype(np.float32)
    listed = rng.choice(batch.ids, (6, 30))
    listed[2, 3] = 5000  # an id that no row has
    of_id = dict(zip(batch.ids.tolist(), batch.x.astype(np.float64), strict=True))
    expected = [[((q - of_id.get(i, np.inf)) ** 2).sum() for i in ids] for q, ids in zip(queries, listed, strict=True)]
    found = [over(CandidateDistances(queries, listed), batch, n_shards, size) for n_shards, size in CUTS]
    for other in found:
        same([other], [found[0]])
    np.testing.assert_allclose(found[0], expected, rtol=1e-14)
    present = listed != 5000
    for metric in ("cosine", "ip"):
        of_metric = over(CandidateDistances(queries, listed, metric), batch, 3)
        products = [[q @ of_id.get(i, np.zeros(9)) for i in ids] for q, ids in zip(queries, listed, strict=True)]
        norms = [[np.linalg.norm(of_id.get(i, 1)) for i in ids] for ids in listed]
        norms *= np.linalg.norm(queries.astype(np.float64), axis=1)[:, None]
        expected = -np.array(products) if metric == "ip" else 1 - products / norms
        np.testing.assert_allclose(of_metric[present], expected[present], rtol=1e-9)


def test_vectors_of_another_dimension_are_refused():
    statistic = CandidateDistances(np.zeros((1, 3)), np.zeros((1, 1), np.int64))
    with pytest.raises(ValueError, match=r"\(n, 3\), found \(10, 2\)"):
        over(statistic, Batch(np.arange(10), np.zeros((10, 2), np.float32)), 1)
