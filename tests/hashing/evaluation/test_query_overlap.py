"""Query overlap by id and by content, for any cut into shards."""

import numpy as np
import pytest

from hashing.evaluation.query_overlap import QueryOverlap
from hashing.mapreduce import Batch
from tests.hashing.evaluation.test_histograms import over


@pytest.mark.parametrize("kind", ["vectors", "pictures", "text"])
def test_overlap_is_found_by_id_and_by_content(kind):
    rng = np.random.default_rng(7)
    x = {
        "vectors": rng.random((100, 12), np.float32),
        "pictures": rng.integers(0, 256, (100, 4, 4, 3), np.uint8),
        "text": np.array([f"row {i}" for i in range(100)], object),
    }[kind]
    ids = np.arange(100)
    queries = np.concatenate([x[10:20], x[50:52]])
    query_ids = np.arange(12) + 95  # 95 .. 99 are ids of rows
    for n_shards in (1, 4):
        assert over(QueryOverlap(query_ids, queries), Batch(ids, x), n_shards) == (5, 12)
