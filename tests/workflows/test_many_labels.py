"""Labels that are nearly as many as rows: evaluated as few are, and refused where memory of rows x labels is needed."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hashkiln
from hashing.bits import pack
from infra.executors import InProcess
from storage.export import npy
from storage.export.optional import ExportRefused
from storage.features import columns
from storage.features.rows import Columns
from tests.workflows.conftest import reindex
from workflows import checks, datasets
from workflows.context import Context, open_table
from workflows.evaluation import comparison, examples
from workflows.evaluation.judge import judge_of
from workflows.export import export_version
from workflows.spec import Spec

N, CLASSES, Q = 3000, 1200, 40
RNG = np.random.default_rng(0)
LABELS = 5 * RNG.permutation(np.arange(N) % CLASSES)  # two or three rows of each
X = (RNG.normal(size=(5 * CLASSES, 8))[LABELS] + 0.1 * RNG.normal(size=(N, 8))).astype(np.float32)
SPEC = Spec(dataset="many", method={"method": "lsh", "bits": 16}, protocol={"queries": Q})


@pytest.fixture
def table(settings, tmp_path):
    for i, rows in enumerate(np.array_split(np.arange(N), 3)):
        part = pa.table({"id": rows, "vector": list(X[rows]), "sku": LABELS[rows]})
        (tmp_path / "source").mkdir(exist_ok=True)
        pq.write_table(part, tmp_path / "source" / f"{i}.parquet")
    dataset = datasets.ingest_source("many", str(tmp_path / "source"), settings, Columns(labels="sku"))
    assert dataset.understood["base"].labels.endswith("distinct in the first 1,000 rows")
    return settings


def average_precision(codes, query, own, label):
    """Return the expectation over ties by hand: a mean over random orders has the same limit."""
    distances = np.bitwise_count(codes ^ query).sum(axis=1)
    ranked = np.arange(N) != own
    hits, values = (label == LABELS) & ranked, []
    for distance in distances[hits]:
        before = ranked & (distances < distance)
        tied = ranked & (distances == distance)
        n, relevant = tied.sum(), (tied & hits).sum()
        found, place = (before & hits).sum(), before.sum()
        steps = np.arange(1, n + 1)
        others = (relevant - 1) / (n - 1) if n > 1 else 0.0
        values.append(((found + 1 + (steps - 1) * others) / (place + steps)).mean())
    return np.mean(values) if values else 0.0


def test_metrics_are_those_of_all_labels_and_only_labels_of_queries_are_read(table, monkeypatch, tmp_path):
    monkeypatch.setattr(columns, "LABEL_BYTES", 4000)  # several batches of a part
    _, report, _ = reindex(table, SPEC)
    context, code_table = Context.of(SPEC, table, InProcess()), open_table(table, "many__lsh16")
    judge = judge_of(context, code_table.vocabulary)
    own = LABELS[judge.queries.ids]
    assert [code_table.vocabulary[label] for label in judge.classes] == sorted(set(own.tolist()))
    parts = code_table.parts(code_table.version().snapshot_id).values()
    counter = comparison.Counter(judge, code_table, table.warehouse_url, InProcess())
    sizes = [batch.y.shape for part in parts for batch in counter.shard(part)]
    assert {columns_ for _, columns_ in sizes} == {len(judge.classes)}
    assert max(rows for rows, _ in sizes) == 4000 // len(judge.classes)
    function = hashkiln.open("many__lsh16").function
    codes, queries = (pack(function.encode(x)) for x in (X, judge.queries.x))
    every = zip(queries, judge.queries.ids, own, strict=True)
    expected = np.mean([average_precision(codes, *query) for query in every])
    assert report.measured.metrics["map"].value == pytest.approx(expected, abs=1e-9)
    given = hashkiln.evaluate(codes, queries, labels=LABELS, query_labels=own)  # own rows are ranked, so this is higher
    assert given.measured.metrics["map"].value > expected
    for example in examples.examples(context, code_table, code_table.version()):
        assert example.labels == (str(LABELS[example.id]),)
        assert [row.labels for row in example.neighbours] == [(str(LABELS[row.id]),) for row in example.neighbours]
        assert [row.relevant for row in example.neighbours] == [
            LABELS[row.id] == LABELS[example.id] for row in example.neighbours
        ]


def test_what_needs_memory_of_rows_and_labels_is_refused_before_it_begins(table, monkeypatch, tmp_path, run_command):
    reindex(table, SPEC)
    code, said, _ = run_command("export", "many__lsh16", "--to", "duckdb", "--out", str(tmp_path / "duck"))
    assert (code, "…: 1,200 labels" in " ".join(said.split()), len(said) < 3000) == (0, True, True)
    monkeypatch.setattr(npy, "MOST_CLASSES", 1000)
    with pytest.raises(ExportRefused, match=r"labels.npy would take 0.0 GB, a byte for each of 3,000 rows and 1,200"):
        export_version("many__lsh16", "npy", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    for module in ("hashing.methods", checks.__name__):
        monkeypatch.setattr(f"{module}.MOST_CLASSES", 1000)
    before = sorted(table.home.rglob("*"))
    code, _, error = run_command("reindex", "--dataset", "many", "--method", "ksh", "--bits", "8")
    assert (code, error.count("\n")) == (2, 1)
    assert "KSH learns from at most 1,000 different labels, found 1,200, in dataset many" in error
    assert sorted(table.home.rglob("*")) == before
    with pytest.raises(ValueError, match="SDH learns from at most 1,000 different labels, found 1,200"):
        hashkiln.fit(X, LABELS, method="sdh", bits=8)


def test_ingest_says_that_few_rows_share_a_label(tmp_path, settings):
    pq.write_table(pa.table({"id": range(N), "vector": list(X), "price": np.arange(N)}), tmp_path / "rows.parquet")
    dataset = datasets.ingest_source("prices", str(tmp_path / "rows.parquet"), settings, Columns(labels="price"))
    said = "3,000 distinct in the first 3,000 rows, so few rows share one: leave out --label-column if these are values"
    assert said in dataset.understood["base"].labels
