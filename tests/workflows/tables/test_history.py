"""Versions of a published table: history, differences and rollback."""

import json

import pytest

from infra.settings import current_user
from tests.conftest import blobs
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import TABLE, D, hashkiln, reindex, rows_of, spec, write
from workflows.reindex import publishing
from workflows.tables import history

settings, source = published_table.settings, published_table.source  # fixtures


def test_history_diff_and_rollback_agree(settings, source):
    write(source, "1.parquet", blobs(150, D, seed=9, first_id=1000))
    write(source, "9.parquet", blobs(70, D, seed=10, first_id=9000))
    (source / "3.parquet").unlink()
    assert reindex(settings) == "v2"
    with pytest.raises(publishing.GateRejected):
        reindex(
            settings,
            spec(refit="always", method={"method": "lsh", "bits": 16, "seed": 1}, gate={"floors": {"map": 0.99}}),
        )
    found = history.diff(TABLE, "v1", "v2")
    assert (found.added, found.changed, found.removed) == (("9.parquet",), ("1.parquet",), ("3.parquet",))
    assert (found.rows, found.models[0] == found.models[1], found.comparable) == ((800, 620), True, True)
    assert set(found.metrics) >= {"map", "precision_radius_2"}
    assert history.rollback(TABLE) == "v1"
    assert len(rows_of(settings)) == 800
    events = history.history(TABLE)
    assert [(e.version.partition("-")[0], e.what, e.published) for e in events] == [
        ("v1", "published", "now"), ("v2", "published", ""), ("rejected", "rejected", ""), ("v1", "rolled back", ""),
    ]  # fmt: skip
    assert "is below its floor of 0.9900" in events[2].note
    assert (events[3].note, events[3].by) == ("from v2", current_user())
    with pytest.raises(ValueError, match="cannot roll back mine__code: no version was published before v1"):
        history.rollback(TABLE)
    _, output = hashkiln("history", TABLE, "--json")
    assert [event["what"] for event in json.loads(output)] == [event.what for event in events]
    assert "readers see v1" in hashkiln("history", TABLE)[1]
    assert json.loads(hashkiln("diff", TABLE, "v1", "v2", "--json")[1])["rows"] == [800, 620]
    assert "shards removed: 1: 3.parquet" in hashkiln("diff", TABLE, "v1", "v2")[1]
    assert json.loads(hashkiln("rollback", TABLE, "--to", "v2", "--json")[1]) == {"table": TABLE, "version": "v2"}
    assert reindex(settings) == "v2"  # which is what the source encodes to: nothing to do


def test_metrics_of_different_protocols_never_share_a_column(settings, source):
    reindex(settings, spec(bits=8, code="short"))
    reindex(settings, spec(code="other", protocol={"queries": 30, "relevance": "neighbours", "neighbours": 5}))
    labels, neighbours = history.compare_tables("mine")
    assert [codes.table for codes in labels.codes] == [TABLE, "mine__short"]
    assert [(codes.bits, codes.rows, codes.method) for codes in labels.codes] == [(16, 800, "lsh"), (8, 800, "lsh")]
    assert [codes.table for codes in neighbours.codes] == ["mine__other"]
    assert "rows that share a label" in labels.protocol
    assert "the 5 nearest rows" in neighbours.protocol
    output = hashkiln("compare", "mine")[1]
    assert "2 protocols: metrics are not comparable between the tables above" in output
    assert len(json.loads(hashkiln("compare", "mine", "--json")[1])) == 2
    with pytest.raises(LookupError, match="expected the name of a dataset, found 'yours'"):
        history.compare_tables("yours")
