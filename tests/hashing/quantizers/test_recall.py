"""Recall of the quantizers on real images, compared with published figures."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from hashing.evaluation.by_score import NearestByScore
from hashing.mapreduce import Batch, Data
from hashing.methods import METHODS
from hashing.neighbours.exact import NearestNeighbours
from infra.executors import InProcess
from tests.hashing.quantizers.rows import batch_of

K, D = 10, 784


def images(name):
    content = gzip.decompress((Path(os.environ["HASHKILN_DATA"]) / "fashion-mnist" / f"{name}.gz").read_bytes())
    return np.frombuffer(content, np.uint8, offset=16).reshape(-1, D).astype(np.float32)


@pytest.fixture(scope="module")
def fashion():
    """Return Data of 60,000 rows, 500 queries and the ids of their 10 nearest rows."""
    x, queries = images("train-images-idx3-ubyte"), images("t10k-images-idx3-ubyte")[:500]
    data = Data([[Batch(np.arange(len(x)), x)]], InProcess())
    return data, queries, data.reduce(NearestNeighbours(queries, np.full(500, -1), K))[0]


@pytest.mark.slow
@pytest.mark.skipif("HASHKILN_DATA" not in os.environ, reason="needs the real data sets in HASHKILN_DATA")
@pytest.mark.parametrize(
    ("name", "bits", "real", "expected"),
    [
        ("osq", 1, False, 0.444),  # Lucene: .443, by a graph (pull request 14374)
        ("osq", 2, False, 0.704),
        ("rabitq", 1, False, 0.701),
        ("rabitq", 1, True, 0.718),
        ("turboquant", 2, True, 0.846),
    ],
)
def test_recall_at_10_on_fashion_mnist_without_reranking(fashion, name, bits, real, expected):
    data, queries, truth = fashion
    function = METHODS[name](bits * D).fit(data)
    rows = [[batch_of(function, data.shards[0][0].x)]]
    nearest = NearestByScore(function.estimator(queries, "euclidean", real), len(queries), K)
    _, found = Data(rows, InProcess()).reduce(nearest)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(found, truth, strict=True)])
    assert recall == pytest.approx(expected, abs=0.015)
