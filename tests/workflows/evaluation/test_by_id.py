"""`evaluate --ties by-id` of a table against a sort of its codes, and where it is refused."""

import numpy as np
import pytest

from hashing.evaluation import metrics
from storage import queries
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import TABLE, hashkiln, rows_of, spec, table_of
from workflows.checks import UsageError
from workflows.evaluation.flow import evaluate_version
from workflows.spec import Protocol

settings, source = published_table.settings, published_table.source  # fixtures


@pytest.fixture
def ranked(settings, source):
    """Return the labels (q, n) of the rows ranked for each frozen query, without the query's own row."""
    table, codes = table_of(settings), rows_of(settings)
    frozen, _ = queries.load_queries(settings.warehouse_url, "mine").batch(table.vocabulary)
    ids, rows = np.array(sorted(codes)), np.array([codes[i] for i in sorted(codes)], np.uint8)
    labels = dict(pair for shard in table.shards(table.version("main").snapshot_id) for b in shard for pair in
                  zip(b.ids.tolist(), b.y.argmax(1).tolist(), strict=True))  # fmt: skip
    found = []
    for i, y in zip(frozen.ids, frozen.y.argmax(1), strict=True):
        distance = np.bitwise_count(rows ^ rows[np.searchsorted(ids, i)]).sum(axis=1)
        order = np.lexsort((ids, distance))
        found.append([labels[j] == y for j in ids[order].tolist() if j != i])
    return np.array(found)


def test_a_version_is_measured_by_the_order_of_its_ids(ranked, monkeypatch):
    monkeypatch.setattr("workflows.evaluation.by_id.CELLS", 3000)  # several blocks of queries
    report = evaluate_version(TABLE, "main", None, Protocol(ties="by-id", queries=30))
    assert report.protocol.endswith("ties: in order of id")
    precision = ranked.cumsum(axis=1) / np.arange(1, ranked.shape[1] + 1)
    found = report.measured.metrics
    expected = {
        "map": np.mean([p[hits].mean() for p, hits in zip(precision, ranked, strict=True)]),
        "precision_at_100": precision[:, 99].mean(),
    }
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12)
    assert report.curves.precision_at[2] == pytest.approx(precision[:, report.curves.ranks[2] - 1].mean(), abs=1e-12)
    counted = evaluate_version(TABLE, "main", None, Protocol(queries=30))
    assert counted.measured.metrics["map"].value != pytest.approx(expected["map"], abs=1e-4)
    for name in ("map_pessimistic", "map_optimistic", "precision_radius_2"):
        assert found[name] == counted.measured.metrics[name]
    assert found["map_pessimistic"].value < expected["map"] < found["map_optimistic"].value


@pytest.mark.parametrize("relevance", ["graded", "neighbours"])
def test_ranking_by_id_with_other_kinds_of_relevance(ranked, relevance):
    """Classes are exclusive, so NDCG has a single gain; for neighbours only the bounds are checked."""
    report = evaluate_version(
        TABLE, "main", None, Protocol(relevance=relevance, ties="by-id", queries=30, neighbours=20)
    )
    found = report.measured.metrics
    assert found["map_pessimistic"].value < found["map"].value < found["map_optimistic"].value
    if relevance == "graded":
        one_each = np.stack([~ranked, ranked]).astype(np.int64)
        assert found["ndcg"].value == pytest.approx(metrics.ndcg(one_each).mean(), abs=1e-12)


def test_comparisons_of_versions_use_expectations_over_ties(source, monkeypatch):
    with pytest.raises(UsageError, match="versions are compared by expectation over ties only"):
        evaluate_version(TABLE, "main", "v1", Protocol(ties="by-id"))
    with pytest.raises(ValueError, match="ties: by-id is only for evaluate"):
        spec(protocol={"ties": "by-id"})
    monkeypatch.setattr("hashing.evaluation.by_id.MAX_ROWS", 700)
    with pytest.raises(ValueError, match="expected at most 700 rows to rank by id, found more"):
        hashkiln("evaluate", TABLE, "--ties", "by-id")
