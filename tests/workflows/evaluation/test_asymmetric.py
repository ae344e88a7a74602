"""`evaluate --asymmetric`: the mean average precision of real-valued queries, against a sort of the rows."""

import numpy as np
import pytest

from hashing import bits
from hashing.mapreduce import Data
from hashing.methods import METHODS
from storage import models, queries
from tests.conftest import blobs
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import TABLE, hashkiln, rows_of, spec, table_of
from workflows.checks import UsageError
from workflows.evaluation import asymmetric
from workflows.evaluation.flow import evaluate_version
from workflows.evaluation.judge import Judge
from workflows.spec import Protocol

settings, source = published_table.settings, published_table.source  # fixtures


def average_precision(scores, relevant):
    """Return the expectation over the orders of rows of equal score, by a sort."""
    value, before, hits = 0.0, 0, 0
    for level in np.unique(scores):
        n, r = (scores == level).sum(), relevant[scores == level].sum()
        for place in range(1, n + 1):  # its row is relevant with probability r / n, as are those before it
            value += r / n * (hits + 1 + (r - 1) * (place - 1) / max(1, n - 1)) / (before + place)
        before, hits = before + n, hits + r
    return value / hits


def test_the_metrics_are_those_of_a_sort_of_all_rows(settings, source, monkeypatch):
    monkeypatch.setattr("hashing.neighbours.candidates.STATE_BYTES", 10**5)  # several blocks of queries
    table, rows = table_of(settings), rows_of(settings)
    version = table.version("main")
    frozen, _ = queries.load_queries(settings.warehouse_url, "mine").batch(table.vocabulary)
    u = models.load_model(settings.warehouse_url, version.properties["model"]).project(frozen.x).astype(float)
    labels = dict(pair for shard in table.shards(version.snapshot_id) for b in shard for pair in
                  zip(b.ids.tolist(), b.y.argmax(1).tolist(), strict=True))  # fmt: skip
    ids = np.array(sorted(rows))
    signs = bits.unpack(np.array([rows[i] for i in ids.tolist()], np.uint8), u.shape[1]) * 2.0 - 1
    y = np.array([labels[i] for i in ids.tolist()])
    report = evaluate_version(TABLE, "main", None, Protocol(asymmetric=True, queries=30))
    for name, weights in (("map_asymmetric", u), ("map_asymmetric_sigmoid", np.tanh(u / 2))):
        expected = [
            average_precision(np.float32(-w @ signs[ids != i].T), y[ids != i] == own)
            for w, i, own in zip(weights, frozen.ids, frozen.y.argmax(1), strict=True)
        ]
        assert report.measured.metrics[name].value == pytest.approx(np.mean(expected), rel=1e-6)
    by_distance = evaluate_version(TABLE, "main", None, Protocol(queries=30)).measured.metrics
    assert report.measured.metrics["map"] == by_distance["map"]
    assert "map_asymmetric" not in by_distance
    assert report.measured.metrics["map_asymmetric"].value > by_distance["map"].value


def test_the_metrics_of_no_rows_are_zero(in_process):
    rows = blobs(10, 16)
    function = METHODS["lsh"](16).fit(Data([[rows]], in_process))
    found = asymmetric.asymmetric_values(Judge(rows, False, None, ""), function, np.zeros(10, int), [], in_process)
    assert [values.tolist() for values in found.values()] == [[0.0] * 10] * 2


def test_relevance_by_neighbours(source):
    found = evaluate_version(
        TABLE, "main", None, Protocol(relevance="neighbours", neighbours=20, queries=30, asymmetric=True)
    ).measured.metrics
    assert found["map"].value < found["map_asymmetric"].value < 1


def test_real_valued_queries_are_measured_by_evaluate_alone(source):
    with pytest.raises(UsageError, match="versions are compared by Hamming distance only: leave out asymmetric"):
        evaluate_version(TABLE, "main", "v1", Protocol(asymmetric=True))
    with pytest.raises(ValueError, match="asymmetric: real-valued queries are only for evaluate"):
        spec(protocol={"asymmetric": True})
    code, text = hashkiln("evaluate", TABLE, "--asymmetric")
    assert code == 0
    assert "map_asymmetric_sigmoid" in text
