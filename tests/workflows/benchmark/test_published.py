"""Published figures, measured again: ITQ on raw MNIST pixels checks the evaluation."""

import numpy as np
import pytest

from hashing.bits import pack
from hashing.evaluation.histograms import NeighbourHistogram
from hashing.evaluation.metrics import precision_within
from hashing.mapreduce import Batch, Data
from hashing.methods import itq
from hashing.neighbours.exact import NearestNeighbours
from hashing.statistics import moments
from storage import datasets

PUBLISHED = {16: 5.87, 24: 23.92, 32: 36.35}  # %, Do, Doan & Cheung, ECCV 2016, table 1


@pytest.fixture(scope="module")
def mnist(real_data):
    """(base in 4 shards, queries, their 50 nearest neighbours)."""
    named = datasets.get("mnist")
    files = datasets.locate_or_fetch(named, real_data)

    def split(name):
        blocks = list(datasets.read_split(named, name, files))
        return Batch(*(np.concatenate([getattr(block, field) for block in blocks]) for field in ("ids", "x")))

    base, queries = split("base"), split("query")
    shards = [
        [base.take(slice(i, i + 5000))._replace(x=base.x[i : i + 5000].astype(np.float32))]
        for i in range(0, len(base.ids), 5000)
    ]
    return shards, queries._replace(x=queries.x.astype(np.float32))


def test_itq_on_mnist_gives_the_published_precision(mnist, in_process, monkeypatch):
    shards, queries = mnist
    truth, _ = Data(shards, in_process).reduce(NearestNeighbours(queries.x, queries.ids, 50))
    found = moments(Data(shards, in_process))  # the same for all fits
    monkeypatch.setattr(itq, "moments", lambda data: found)
    for n_bits, published in PUBLISHED.items():
        precision = []
        for seed in range(3):
            function = itq.ITQ(n_bits=n_bits, seed=seed).fit(Data(shards, in_process))
            codes = [[batch._replace(x=pack(function.encode(batch.x))) for batch in shard] for shard in shards]
            statistic = NeighbourHistogram(pack(function.encode(queries.x)), n_bits, truth, queries.ids)
            histogram = Data(codes, in_process).reduce(statistic)
            precision.append(100 * precision_within(histogram, 2).mean())
        assert np.mean(precision) == pytest.approx(published, abs=0.5), f"{n_bits} bits: {precision}"
