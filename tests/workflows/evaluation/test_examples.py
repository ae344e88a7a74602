"""The queries of a report and the rows near them, against a search by hand."""

from pathlib import Path

import numpy as np

from hashing.bits import pack
from hashing.evaluation.metrics import average_precision
from infra.executors import InProcess
from storage import models
from tests.conftest import blobs
from tests.workflows.conftest import CLASSES, D, published_rows, reindex, spec, table_of, write_shard
from workflows.context import Context
from workflows.evaluation import examples
from workflows.evaluation.judge import judge_of


def test_examples_equal_a_search_by_hand(settings, mine, monkeypatch):
    reindex(settings, spec())
    context, table, rows = Context.of(spec(), settings, InProcess()), table_of(settings), published_rows(settings)
    version = table.version()
    found = examples.examples(context, table, version)
    judge = judge_of(context, table.vocabulary)
    codes = pack(models.load_model(settings.warehouse_url, version.properties["model"]).encode(judge.queries.x))
    distances = np.bitwise_count(codes[:, None] ^ rows.x).sum(-1)
    relevant = judge.queries.y @ rows.y.T > 0
    ranked = judge.queries.ids[:, None] != rows.ids  # queries are rows: a query does not find itself
    counts = [
        [np.bincount(d[own & hit], minlength=17) for d, own, hit in zip(distances, ranked, hits, strict=True)]
        for hits in (np.ones_like(relevant), relevant)
    ]
    precision = average_precision(np.array(counts))
    order = np.argsort(-precision, kind="stable")
    assert [example.kind for example in found] == ["best"] * 3 + ["median"] * 3 + ["worst"] * 3
    assert [example.id for example in found] == judge.queries.ids[[*order[:3], *order[23:26], *order[-3:]]].tolist()
    for example in found:
        q = judge.queries.ids.tolist().index(example.id)
        near = np.lexsort((rows.ids, distances[q]))
        near = near[ranked[q, near]][:8]
        assert [row.id for row in example.neighbours] == rows.ids[near].tolist()
        assert [row.distance for row in example.neighbours] == distances[q, near].tolist()
        assert [row.relevant for row in example.neighbours] == relevant[q, near].tolist()
        assert [row.labels for row in example.neighbours] == [(CLASSES[c],) for c in rows.y[near].argmax(1)]
        assert (example.precision, example.labels) == (precision[q], (CLASSES[judge.queries.y[q].argmax()],))
    monkeypatch.setattr(examples, "ROWS", 100)
    assert examples.examples(context, table, version) == ()


def test_examples_of_the_next_version_read_only_what_changed(settings, mine, source, monkeypatch):
    def found():
        version = table_of(settings).version()
        return examples.examples(Context.of(spec(), settings, InProcess()), table_of(settings), version)

    searched, joined = [], examples.joined
    monkeypatch.setattr(examples, "joined", lambda shards: searched.append(len(shards)) or joined(shards))
    reindex(settings, spec())
    found()
    write_shard(source, "part1.parquet", blobs(190, D, seed=9, first_id=1000))
    reindex(settings, spec())
    incremental = found()
    assert searched == [4, 1]
    for cached in Path(settings.warehouse_url).glob("kept/*.npz"):
        cached.unlink()
    assert found() == incremental
    assert searched == [4, 1, 4]
