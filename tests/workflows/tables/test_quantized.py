"""A table of a quantizer: its correctives are stored, verified and exported, and its rows are ranked by estimates."""

import itertools
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import hashkiln as public
from hashing.bits import pack
from hashing.mapreduce import Batch
from hashing.neighbours.exact import vector_distances
from hashing.quantizers.rabitq import RaBitQHash
from infra.executors import InProcess
from storage import models
from storage.features.rows import Columns
from storage.tables import integrity
from storage.tables.parts import encode_shard
from tests.conftest import blobs
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import NAMES, D, hashkiln, reindex, spec, table_of, write
from workflows import datasets, export
from workflows.checks import UsageError, check_run
from workflows.context import Context
from workflows.evaluation.judge import judge_of
from workflows.evaluation.version import measure_version
from workflows.ingested import dataset_of
from workflows.reindex import pipeline
from workflows.reindex.publishing import GateRejected
from workflows.reports.index import warehouse_page
from workflows.reports.run import metric_rows
from workflows.spec import Protocol, Spec
from workflows.tables import deletion, history
from workflows.tables.verify import verify

settings, source = published_table.settings, published_table.source  # fixtures
TABLE = "mine__rabitq16"
BITS = 2 * D


def quantized(bits=BITS, code="rabitq16", **changes):
    return spec(method={"method": "rabitq", "bits": bits}, code=code, **changes)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "rows"


@pytest.fixture
def published(settings, folder):
    """Return ids (n,) and vectors (n, d) of a table of RaBitQ."""
    batches = [blobs(200, D, seed=i, first_id=1000 * i) for i in range(4)]
    for name, batch in zip(NAMES, batches, strict=True):
        write(folder, name, batch)
    datasets.ingest_source("mine", str(folder), settings, Columns(labels="labels"))
    assert reindex(settings, quantized()) == "v1"
    return np.concatenate([batch.ids for batch in batches]), np.concatenate([batch.x for batch in batches])


@pytest.fixture
def queries():
    return blobs(12, D, seed=9).x


def estimates(function, x, queries, real=False):
    return function.estimator(queries, "euclidean", real)(Batch(np.arange(len(x)), function.encode_rows(x)))


def nearest(distances, ids, k):
    order = np.lexsort((np.broadcast_to(ids, distances.shape), distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, 1), ids[order]


def test_search_ranks_by_the_estimates(published, queries):
    ids, x = published
    for resident, real in itertools.product((True, False), (True, False)):
        table = public.open(TABLE, resident=resident)
        distances, found = table.search(queries, k=7, asymmetric=real)
        expected = nearest(estimates(table.function, x, queries, real), ids, 7)
        np.testing.assert_array_equal(found, expected[1])
        np.testing.assert_array_equal(distances, expected[0])


def test_search_reranks_the_candidates_of_the_estimates(published, queries):
    ids, x = published
    distances, found = public.open(TABLE).search(queries, k=5, rerank=40)
    pairs = vector_distances(queries, x, np.repeat(np.arange(12), len(x)), np.tile(np.arange(len(x)), 12))
    exact = nearest(pairs.reshape(12, -1), ids, 5)
    assert (found == exact[1]).mean() > 0.95
    np.testing.assert_allclose(distances, exact[0], rtol=0.05)


def test_search_of_some_rows_and_of_a_stored_file_names_what_ranked(published, queries, tmp_path):
    table = public.open(TABLE)
    _, found = table.search(queries, k=3, where=0)
    assert not np.isin(found, table.search(queries, k=3, where=[1, 2, 3, 4, 5])[1]).any()
    np.save(tmp_path / "q.npy", queries)
    run = "search", TABLE, "--queries", str(tmp_path / "q.npy"), "--k", "3", "--out", str(tmp_path / "found.parquet")
    code, output = hashkiln(*run)
    assert (code, "by RaBitQ's estimate of the squared Euclidean distance" in " ".join(output.split())) == (0, True)
    metadata = pq.read_metadata(tmp_path / "found.parquet").metadata
    assert b"RaBitQ's estimate of the squared Euclidean" in b" ".join(metadata.values())
    code, output = hashkiln(*run, "--asymmetric")
    assert "by RaBitQ's estimate, from real-valued queries, of the squared Euclidean" in " ".join(output.split())


def test_what_needs_hamming_distances_is_refused_in_one_line(published, queries, settings, tmp_path):
    table = public.open(TABLE)
    with pytest.raises(ValueError, match="RaBitQ's estimates, which have no Hamming radius"):
        table.within(queries, 3)
    for index in (True, "stored"):
        with pytest.raises(ValueError, match="index: the rows of mine__rabitq16 are ranked by estimates"):
            public.open(TABLE, index=index)
    with pytest.raises(ValueError, match="index: the rows of rabitq are ranked by estimates"):
        quantized(index=True)
    with pytest.raises(ValueError, match="faiss-flat would rank the rows of a quantizer by Hamming distance"):
        export.export_version(TABLE, "faiss-flat", str(tmp_path / "out"))
    with pytest.raises(ValueError, match="milvus would rank the rows of a quantizer by Hamming distance"):
        check_run(quantized(exports={"milvus": str(tmp_path / "out")}), settings)


def test_a_code_length_that_does_not_suit_the_dimension_is_refused_before_the_run(settings, source):
    with pytest.raises(ValueError, match=re.escape("ask for 16, 32, 48, 64 or more bits, in dataset mine")):
        check_run(quantized(bits=24), settings)


def test_parts_hold_the_correctives_and_the_export_too(published, settings, tmp_path, monkeypatch):
    _, x = published
    table = table_of(settings, TABLE)
    function = models.load_model(settings.warehouse_url, table.version().properties["model"])
    assert (table.format, table.correctives) == (4, function.columns)
    scanned = table.iceberg.scan().to_arrow().sort_by("id")
    _, correctives = next(function.quantized(x))
    for i, name in enumerate(function.columns):
        values = np.frombuffer(b"".join(scanned[name].to_pylist()), "<f2")  # as docs/how-to/read-the-codes.md says
        np.testing.assert_array_equal(values, correctives[:, i])
    found = export.export_version(TABLE, "npy", str(tmp_path / "out"))
    assert found["correctives"] == function.columns
    order = np.argsort(np.load(tmp_path / "out" / "ids.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "correctives.npy")[order], correctives)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "codes.npy")[order], pack(function.encode(x)))
    monkeypatch.setattr("storage.tables.table.WITH_CORRECTIVES", 3)  # as in an older program
    with pytest.raises(ValueError, match="has format 4, newer than 3: upgrade hashkiln"):
        table_of(settings, TABLE)


def test_a_model_of_another_metric_is_refused_before_rows_are_encoded(published, settings, folder):
    parts = sorted(Path(table_of(settings, TABLE).folder).rglob("*.parquet"))
    datasets.ingest_source("mine", str(folder), settings, Columns(labels="labels"), metric="cosine")
    with pytest.raises(UsageError, match=r"is for the squared Euclidean distance, .* by the cosine distance: fit a"):
        reindex(settings, quantized())
    assert sorted(Path(table_of(settings, TABLE).folder).rglob("*.parquet")) == parts
    assert reindex(settings, quantized(refit="always", gate={"max_loss": {"map": 1.0}})) == "v2"


def test_a_table_is_extended_and_deleted_from_and_sound_throughout(published, queries, settings, folder):
    write(folder, "4.parquet", blobs(50, D, seed=4, first_id=4000))
    assert pipeline.run_stages(Context.of(quantized(), settings, InProcess())).version == "v2"  # with its report
    deletion.delete("mine", ["1003", "4001"])
    report = verify(TABLE, deep=True)
    assert (report.problems, report.rows, report.rechecked) == ((), 848, 5)
    ids = public.open(TABLE).search(queries, k=848)[1]
    assert (ids.shape, np.isin([1003, 4001], ids).any()) == ((12, 848), False)


@dataclass(frozen=True, eq=False)
class Wrong(RaBitQHash):
    """A quantizer with other correctives and the same bits."""

    def quantize(self, x):
        u, correctives = super().quantize(x)
        return u, correctives * np.where(x[:, :1] > 0, np.float32(2.5), np.float32(1))


def test_verify_compares_the_correctives_with_the_source(published, settings):
    version = table_of(settings, TABLE).version()
    function = models.load_model(settings.warehouse_url, version.properties["model"])
    shard = dataset_of(Spec.stored(version.properties["spec"]), settings).shards("base")[0]
    wrong = Wrong(*(getattr(function, name) for name in ("rotation", "centre", "bits")), metric=function.metric)
    wrong = replace(wrong, step_unit=function.step_unit, term_unit=function.term_unit)
    part = encode_shard(shard, wrong, table_of(settings, TABLE).folder)
    found = integrity.compare_with_source((part, shard), function)
    rows = int((next(iter(shard)).x[:, 0] > 0).sum())
    assert [problem.split(" in ")[0] for problem in found.problems] == [f"the correctives of {rows} rows"]


def test_a_table_of_codes_keeps_its_format_and_never_mixes_with_correctives(settings, source):
    assert table_of(settings).format == 2
    with pytest.raises(ValueError, match="table mine__code has the columns no correctives, not step_float16, term"):
        reindex(settings, quantized(bits=D, code="code"))


def measured(settings, of):
    context = Context.of(of, settings, InProcess())
    table = table_of(settings, TABLE)
    version = table.version()
    function = models.load_model(settings.warehouse_url, version.properties["model"])
    return measure_version(context, table, version), judge_of(context, table.vocabulary), function


def test_evaluation_ranks_by_the_estimates_beside_the_hamming_distance_of_the_bits(published, settings):
    ids, x = published
    for real, queries in ((False, ""), (True, ", from real-valued queries,")):
        protocol = {"queries": 30, "relevance": "neighbours", "neighbours": 5, "asymmetric": real}
        of = quantized().model_copy(update={"protocol": Protocol(**protocol)})
        report, judge, function = measured(settings, of)
        distances = estimates(function, x, judge.queries.x, real)
        distances[ids == judge.queries.ids[:, None]] = np.inf
        found = nearest(distances, ids, 50)[1]
        metrics = {name: estimate.value for name, estimate in report.measured.metrics.items()}
        for factor in (1, 2, 4, 10):
            name = f"recall_reranked_x{factor}"
            hits = [np.isin(judge.neighbours[i], found[i, : 5 * factor]).mean() for i in range(30)]
            assert metrics[f"estimator.{name}"] == pytest.approx(np.mean(hits), abs=1e-9)
            assert metrics[f"estimator.{name}"] > metrics[name]  # by Hamming distance
        ranking = (
            f"metrics estimator.* rank by RaBitQ's estimate{queries} of the squared Euclidean distance, the others by"
        )
        assert ranking in report.protocol
        assert "map_asymmetric" not in metrics


def test_metrics_by_labels_are_those_of_the_ranking_by_estimates(published, settings):
    ids, x = published
    report, judge, function = measured(settings, quantized())
    distances = estimates(function, x, judge.queries.x)
    labels = np.concatenate([blobs(200, D, seed=i).y.argmax(axis=1) for i in range(4)])
    precisions = []
    for row, query, own in zip(distances, judge.queries.y, judge.queries.ids, strict=True):
        order = np.argsort(np.where(ids == own, np.inf, row))[:-1]
        hits = labels[order] == query.argmax()
        precisions.append((hits.cumsum() / np.arange(1, 800))[hits].mean())
    assert report.measured.metrics["estimator.map"].value == pytest.approx(np.mean(precisions), abs=1e-6)
    assert "estimator.ndcg" not in report.measured.metrics
    graded = measured(settings, quantized(protocol={"queries": 30, "relevance": "graded"}))[0].measured.metrics
    assert graded["estimator.map"].value == report.measured.metrics["estimator.map"].value
    assert graded["ndcg_at_10"].value < graded["estimator.ndcg_at_10"].value < 1


def test_metrics_by_hamming_distance_compare_with_those_of_other_methods(published, settings):
    reindex(settings, spec(code="lsh"))
    (group,) = history.compare_tables("mine")
    assert [(codes.table, bool(codes.ranking)) for codes in group.codes] == [("mine__lsh", False), (TABLE, True)]
    output = hashkiln("compare", "mine")[1]
    assert f"{TABLE}: metrics estimator.* rank by RaBitQ's estimate of the squared" in output
    assert "not comparable" not in output
    assert group.protocol in warehouse_page("warehouse", [table_of(settings, TABLE)])
    assert "rank by" not in group.protocol


def test_the_gate_bounds_metrics_by_estimates_and_compares_those_by_hamming_distance(published, settings, folder):
    write(folder, "0.parquet", blobs(190, D, seed=0))
    with pytest.raises(GateRejected, match=r"estimator.map 0\.\d+ is below its floor of 0.9990"):
        reindex(settings, quantized(gate={"floors": {"estimator.map": 0.999}}))
    of = quantized(gate={"floors": {"estimator.map": 0.3}, "max_loss": {"map": 1.0}})
    assert reindex(settings, of) == "v2"
    report = measure_version(
        Context.of(of, settings, InProcess()),
        table_of(settings, TABLE),
        table_of(settings, TABLE).version("v2"),
        table_of(settings, TABLE).version("v1"),
    )
    rows = {row["metric"]: row for row in metric_rows(report)}
    assert rows["map"]["difference"]
    assert rows["estimator.map"]["difference"] == ""
    with pytest.raises(ValueError, match=r"gate: estimator.map needs a quantizer, found the method lsh"):
        spec(gate={"floors": {"estimator.map": 0.3}})
    with pytest.raises(ValueError, match=r"estimator.ndcg needs --relevance graded"):
        quantized(gate={"floors": {"estimator.ndcg": 0.3}})
    with pytest.raises(ValueError, match=r"estimator.recall_reranked_x2 needs --relevance neighbours"):
        quantized(gate={"floors": {"estimator.recall_reranked_x2": 0.3}}, protocol={"relevance": "labels"})
    with pytest.raises(ValueError, match=r"estimator.map is not compared with the published version"):
        quantized(gate={"max_loss": {"estimator.map": 0.1}})
