"""Search in published tables, and their export."""

import dataclasses
import json
from pathlib import Path
from typing import get_args

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hashkiln
from hashing.bits import pack
from hashing.evaluation import metrics
from hashing.evaluation.histograms import HammingHistogram
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Batch
from hashing.neighbours import candidates
from infra import executors
from infra.executors import InProcess
from storage import models
from storage.export.folder import check_folder
from storage.features.rows import Columns
from tests.conftest import blobs
from workflows import datasets, export, search
from workflows.checks import UsageError
from workflows.cli.search import Target
from workflows.context import Context, open_table
from workflows.evaluation import external
from workflows.reader import Search
from workflows.reindex import fitting, gate, publishing, staging
from workflows.spec import Spec
from workflows.tables import deletion

D, BITS = 16, 16


def write_vectors(path, ids, x, labels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(x).ravel()), x.shape[1])
    named = {"id": ids, "vector": vectors} | ({} if labels is None else {"labels": labels})
    pq.write_table(pa.table(named), path)


def publish(settings, seed=0, bits=BITS):
    """Publish `mine`, encoded by a model that depends on the seed."""
    method = {"method": "lsh", "bits": bits, "seed": seed}
    spec = Spec(dataset="mine", method=method, code=f"code{bits}", refit="always", protocol={"queries": 20})
    staged = staging.stage(
        Context.of(spec, settings, InProcess()), fitting.fit(Context.of(spec, settings, InProcess()))
    )
    report = gate.evaluate_staged(Context.of(spec, settings, InProcess()), staged)
    verdict = gate.gate(Context.of(spec, settings, InProcess()), staged, report).model_copy(update={"passed": True})
    return publishing.publish(Context.of(spec, settings, InProcess()), staged, report, verdict, "page")


@pytest.fixture
def base(settings, tmp_path):
    """800 rows with unordered ids in four shards, published as v1, and 30 queries near some of them."""
    batch, order = blobs(800, D), np.random.default_rng(0).permutation(800)
    batch = Batch(7 * order - 1000, np.round(batch.x, 1), batch.y)
    for i, part in enumerate(np.array_split(np.arange(800), 4)):
        labels = [[int(c)] for c in batch.y[part].argmax(1)]
        write_vectors(tmp_path / "base" / f"{i}.parquet", batch.ids[part], batch.x[part], labels)
    write_vectors(tmp_path / "query" / "q.parquet", np.arange(30) + 5000, batch.x[:30] + np.float32(0.05))
    columns = Columns(labels="labels")
    datasets.ingest_source("mine", str(tmp_path / "base"), settings, columns, None)
    assert publish(settings) == "v1"
    return batch


@pytest.fixture
def queries(tmp_path, base):
    return str(tmp_path / "query"), base.x[:30] + np.float32(0.05)


def hamming(settings, base, x, version="v1"):
    """Distances (q, n) under the model of a version."""
    model = open_table(settings, "mine__code16").version(version).properties["model"]
    function = models.load_model(settings.warehouse_url, model)
    return (function.encode(x)[:, None] != function.encode(base.x)[None]).sum(axis=2)


def table(distances, ids, k):
    order = np.lexsort((np.broadcast_to(ids, distances.shape), distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, 1), ids[order]


def read(path):
    return (pq.read_table(path)[name].to_numpy() for name in ("query", "rank", "id", "distance"))


def test_written_results_equal_a_sort_of_all_pairs(settings, base, queries, tmp_path):
    found = search.search("mine__code16", queries[0], str(tmp_path / "out" / "found.parquet"), Search(k=7))
    assert (found.version, found.queries, found.rows, found.distance) == ("v1", 30, 210, "Hamming")
    query, rank, ids, distance = read(found.out)
    np.testing.assert_array_equal(query, np.repeat(np.arange(30) + 5000, 7))
    np.testing.assert_array_equal(rank, np.tile(np.arange(1, 8), 30))
    expected = table(hamming(settings, base, queries[1]), base.ids, 7)
    np.testing.assert_array_equal(distance.reshape(30, 7), expected[0])
    np.testing.assert_array_equal(ids.reshape(30, 7), expected[1])
    assert [str(kind) for kind in pq.read_schema(found.out).types] == ["int64", "int32", "int64", "int32"]
    assert pq.read_schema(found.out).metadata[b"hashkiln.version"] == b"v1"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["found.parquet"]


def test_coarse_to_fine_ranks_the_nearest_codes_by_their_vectors(settings, base, queries):
    reader, x = hashkiln.open("mine__code16"), queries[1]
    exact = np.square(x[:, None].astype(np.float64) - base.x[None]).sum(axis=2)
    found, ids = reader.search(x, 5, rerank=60)
    pool = table(hamming(settings, base, x), base.ids, 60)[1]
    among = np.where([np.isin(base.ids, row) for row in pool], exact, np.inf)
    np.testing.assert_array_equal(ids, table(among, base.ids, 5)[1])
    np.testing.assert_allclose(found, table(among, base.ids, 5)[0], rtol=1e-13)
    np.testing.assert_array_equal(reader.search(x, 5, rerank=800)[1], table(exact, base.ids, 5)[1])
    for i in range(30):  # few candidates: not every shard is read
        among = np.where(np.isin(base.ids, pool[i, :2]), exact[i : i + 1], np.inf)
        np.testing.assert_array_equal(reader.search(x[i : i + 1], 2, rerank=2)[1], table(among, base.ids, 2)[1])
    by_cost = reader.search(x, 60, asymmetric=True)[1]
    among = np.where([np.isin(base.ids, row) for row in by_cost], exact, np.inf)
    np.testing.assert_array_equal(reader.search(x, 5, rerank=60, asymmetric=True)[1], table(among, base.ids, 5)[1])


def test_radius_k_beyond_the_number_of_rows_and_own_rows(settings, base, queries, tmp_path):
    reader, every = hashkiln.open("mine__code16"), hamming(settings, base, queries[1])
    positions, ids, distances = reader.within(queries[1], 3)
    assert len(ids) == (every <= 3).sum() > 0
    for i in range(30):
        expected = table(every[i : i + 1], base.ids, (every[i] <= 3).sum())
        np.testing.assert_array_equal(distances[positions == i], expected[0][0])
        np.testing.assert_array_equal(ids[positions == i], expected[1][0])
    assert search.search("mine__code16", queries[0], str(tmp_path / "r.parquet"), Search(radius=3)).rows == len(ids)
    assert reader.search(queries[1], 5000)[1].shape == (30, 800)
    own = reader.search(base.x[:10], 800)  # a row finds itself, at distance 0
    assert all(i in row[d == 0] for i, d, row in zip(base.ids[:10], *own, strict=True))


def test_a_version_with_all_rows_deleted_has_no_results(settings, base, queries, tmp_path):
    deletion.delete("mine", base.ids)
    reader = hashkiln.open("mine__code16")
    for options in ({}, {"rerank": 50}, {"asymmetric": True}):
        distances, ids = reader.search(queries[1], 10, **options)
        assert distances.shape == ids.shape == (30, 0)
    assert not len(reader.within(queries[1], 3)[1])
    assert search.search("mine__code16", queries[0], str(tmp_path / "none.parquet"), Search(k=5)).rows == 0
    assert pq.read_table(tmp_path / "none.parquet").num_rows == 0


def test_empty_queries_are_refused(settings, base, tmp_path):
    write_vectors(tmp_path / "none.parquet", np.zeros(0, np.int64), np.zeros((0, D), np.float32))
    with pytest.raises(ValueError, match=r"expected at least one query, found none in .*none\.parquet"):
        search.search("mine__code16", str(tmp_path / "none.parquet"), str(tmp_path / "out.parquet"), Search())


def test_results_depend_on_neither_executor_nor_block_size(settings, base, queries, ray_executor, monkeypatch):
    reader, x = hashkiln.open("mine__code16", resident=False), queries[1]
    on_ray = dataclasses.replace(reader, executor=ray_executor)
    resident = hashkiln.open("mine__code16")

    def everything(reader):
        return [
            *reader.search(x, 9), *reader.search(x, 9, rerank=50), *reader.search(x, 9, asymmetric=True),
            *reader.within(x, 4),
        ]  # fmt: skip

    expected = everything(reader)
    others = [everything(on_ray), everything(resident)]
    monkeypatch.setattr(candidates, "STATE_BYTES", 20 * 400)
    others += [everything(reader), everything(resident), everything(hashkiln.open("mine__code16", index=True))]
    for other in others:
        for a, b in zip(other, expected, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b)


def test_small_searches_do_not_start_ray(settings, base, queries, tmp_path, monkeypatch):
    class Started(Exception):
        pass

    def start(*_):
        raise Started

    monkeypatch.setenv("HASHKILN_EXECUTOR", "ray")
    monkeypatch.setattr(executors.Ray, "join", start)
    for asked in (Search(k=3), Search(k=3, rerank=20)):
        assert search.search("mine__code16", queries[0], str(tmp_path / "found.parquet"), asked).rows == 90
    monkeypatch.setattr(search, "FEW_ROWS", 800)
    with pytest.raises(Started):
        search.search("mine__code16", queries[0], str(tmp_path / "found.parquet"), Search(k=3, rerank=20))
    monkeypatch.setattr(search, "FEW_PAIRS", 30 * 800)
    with pytest.raises(Started):
        search.search("mine__code16", queries[0], str(tmp_path / "found.parquet"), Search(k=3))


def test_the_version_is_pinned_while_another_is_published(settings, base, queries, tmp_path):
    published = []

    def publish_meanwhile(label, done, total):
        if label == "search" and not published:
            published.append(publish(settings, seed=1))

    asked = Search(k=7, rerank=40)
    expected = search.search("mine__code16", queries[0], str(tmp_path / "before.parquet"), asked)
    found = search.search("mine__code16", queries[0], str(tmp_path / "a.parquet"), asked, progress=publish_meanwhile)
    assert published == ["v2"]
    assert found.version == "v1"
    assert pq.read_table(found.out).equals(pq.read_table(expected.out))
    now = hashkiln.open("mine__code16")
    assert now.version.name == "v2"
    np.testing.assert_array_equal(
        now.search(queries[1], 7)[0], table(hamming(settings, base, queries[1], "v2"), base.ids, 7)[0]
    )
    old = search.search("mine__code16", queries[0], str(tmp_path / "old.parquet"), asked, version="v1")
    assert pq.read_table(old.out).equals(pq.read_table(expected.out))


def test_queries_come_from_splits_and_files(settings, base, queries, tmp_path, monkeypatch):
    x = queries[1]
    np.save(tmp_path / "q.npy", x.astype(np.float64))
    (tmp_path / "q.fvecs").write_bytes(b"".join(np.int32(D).tobytes() + row.astype("<f4").tobytes() for row in x))
    dataset = hashkiln.open("mine__code16").dataset
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(tmp_path / "q.npy"), "~/q.fvecs"):
        batch = search.read_queries(dataset, name).batch
        np.testing.assert_array_equal(batch.x, x)
        assert (batch.ids[0], batch.ids[-1]) == (2**41, 2**41 + 29)
    np.testing.assert_array_equal(search.read_queries(dataset, queries[0]).batch.x, x)
    assert len(search.read_queries(dataset, "base").batch.ids) == 800


def test_wrong_input_is_refused(settings, base, queries, tmp_path):
    def refused(error, match, source=queries[0], table="mine__code16", **options):
        with pytest.raises(error, match=match):
            search.search(table, str(source), str(tmp_path / "out" / "x.parquet"), Search(**options))
        assert not list((tmp_path / "out").glob("*")), "expected no trace of what failed"

    bad = queries[1].copy()
    bad[3, 2] = np.nan
    np.save(tmp_path / "bad.npy", bad)
    write_vectors(tmp_path / "bad.parquet", np.arange(30), bad)
    write_vectors(tmp_path / "twice.parquet", np.zeros(30, np.int64), queries[1])
    np.save(tmp_path / "narrow.npy", queries[1][:, :5])
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("bad.npy", "bad.parquet"):  # without options of ingest and reindex
        refused(
            ValueError, rf"expected 16 finite numbers, found NaN or infinity, in row 3 of \S*{name}$", tmp_path / name
        )
    refused(ValueError, "distinct ids of queries, found 29 repeated", tmp_path / "twice.parquet")
    refused(ValueError, r"narrow\.npy: expected vectors of dimension 16, found 5", tmp_path / "narrow.npy")
    refused(ValueError, r"objects\.npy: expected a \.npy file of numbers", tmp_path / "objects.npy")
    (tmp_path / "q.csv").write_text("1,2")
    refused(LookupError, r"expected queries in a file \.fvecs, .*, found .*q\.csv", tmp_path / "q.csv")
    (tmp_path / "npy").mkdir()
    np.save(tmp_path / "npy" / "a.npy", queries[1])
    refused(ValueError, r"expected the columns id, found vector, in .*a\.npy", tmp_path / "npy")
    refused(LookupError, "no file 'query', and no split of that name: mine has base", "query")
    refused(LookupError, "no split of that name: did you mean base?", "bsae")
    refused(LookupError, r"no file '.*nowhere\.npy'", tmp_path / "nowhere.npy")
    refused(ValueError, "radius: expected at most 16 bits, found 17", radius=17)
    refused(LookupError, "unknown code table 'nothing'", table="nothing")
    with pytest.raises(UsageError, match="is a folder: pass the name of a file to write"):
        search.search("mine__code16", queries[0], str(tmp_path))
    table = hashkiln.open("mine__code16")
    for options, message in [
        ({"k": 0}, "^k: Input should be greater than or equal to 1, found 0$"),
        ({"k": 2.5}, "^k: Input should be a valid integer, .* found 2.5$"),
        ({"rerank": 5}, "^rerank must be 0 or at least k = 10, found 5$"),
    ]:
        with pytest.raises(ValueError, match=message):
            table.search(queries[1], **options)
    with pytest.raises(ValueError, match="queries: expected at least one, found none"):
        table.search(queries[1][:0])
    with pytest.raises(ValueError, match="radius: expected an integer, found None"):
        table.within(queries[1], None)
    np.testing.assert_array_equal(table.search(queries[1].tolist())[1], table.search(queries[1])[1])
    with pytest.raises(ValueError, match="seconds: expected an interval above 0, found 0"):
        hashkiln.open("mine__code16", follow=True, seconds=0)
    with pytest.raises(LookupError, match="unknown version 'v9' of table mine__code16"):
        hashkiln.open("mine__code16", "v9")
    spec = Spec(dataset="mine", method={"method": "lsh", "bits": 8}, protocol={"queries": 20})
    staging.stage(
        Context.of(spec, settings, InProcess()), fitting.fit(Context.of(spec, settings, InProcess()))
    )  # and not published
    with pytest.raises(LookupError, match="version v0 of mine__lsh8 is empty"):
        hashkiln.open("mine__lsh8")
    with pytest.raises(LookupError, match="version v0 of mine__lsh8 is empty"):
        export.export_version("mine__lsh8", "npy", str(tmp_path / "out"))
    for options in ({"k": 0}, {"radius": 1, "rerank": 20}, {"k": 10, "rerank": 9}, {"radius": -1}):
        with pytest.raises(ValueError):  # noqa: PT011  (pydantic's own words)
            Search(**options)


def test_reranking_refuses_vectors_that_changed_after_encoding(settings, base, queries, tmp_path):
    reader = hashkiln.open("mine__code16")
    write_vectors(tmp_path / "base" / "1.parquet", base.ids[200:400], base.x[200:400] + 1)
    with pytest.raises(ValueError, match=r"the source of 200 rows has changed or was removed .*: run reindex"):
        reader.search(queries[1], 5, rerank=800)
    assert reader.search(queries[1], 5)[1].shape == (30, 5)


def test_exported_arrays_hold_the_version(settings, base, tmp_path):
    about = export.export_version("mine__code16", "npy", str(tmp_path / "new" / "arrays"))
    codes, ids, labels = (np.load(tmp_path / "new" / "arrays" / f"{n}.npy") for n in ("codes", "ids", "labels"))
    order, wanted = np.argsort(ids), np.argsort(base.ids)
    function = hashkiln.open("mine__code16").function
    np.testing.assert_array_equal(ids[order], base.ids[wanted])
    np.testing.assert_array_equal(codes[order], pack(function.encode(base.x))[wanted])
    vocabulary = np.array(about["vocabulary"])
    np.testing.assert_array_equal(vocabulary[labels[order].argmax(1)], base.y[wanted].argmax(1))
    assert json.loads((tmp_path / "new" / "arrays" / "export.json").read_text())["rows"] == 800
    with pytest.raises(FileExistsError, match="is not an empty folder"):
        export.export_version("mine__code16", "npy", str(tmp_path / "new" / "arrays"))


def test_a_folder_may_lie_next_to_a_hidden_one_of_its_name(tmp_path):
    (tmp_path / ".venv").mkdir()
    assert check_folder(str(tmp_path / "venv")) == tmp_path / "venv"


def test_an_export_that_fails_leaves_nothing(settings, base, tmp_path):
    table = open_table(settings, "mine__code16")
    parts = table.parts(table.version().snapshot_id)
    Path(parts["3.parquet"].url).unlink()
    with pytest.raises(FileNotFoundError):
        export.export_version("mine__code16", "npy", str(tmp_path / "new" / "arrays"))
    assert not list((tmp_path / "new").iterdir())


@pytest.mark.parametrize("ids_are_positions", [False, True])
def test_faiss_finds_the_same_neighbours(settings, base, queries, tmp_path, ids_are_positions):
    if ids_are_positions:
        for i, part in enumerate(np.array_split(np.arange(800), 4)):
            labels = [[int(c)] for c in base.y[part].argmax(1)]
            write_vectors(tmp_path / "base" / f"{i}.parquet", part, base.x[part], labels)
        publish(settings)
    export.export_version("mine__code16", "faiss-flat", str(tmp_path / "index"))
    index = faiss.read_index_binary(str(tmp_path / "index" / "index.faiss"))
    assert isinstance(index, faiss.IndexBinaryIDMap2) != ids_are_positions
    reader = hashkiln.open("mine__code16")
    found, ids = index.search(pack(reader.function.encode(queries[1])), 20)
    expected, expected_ids = reader.search(queries[1], 20)
    np.testing.assert_array_equal(found, expected)
    for row in range(30):  # at the last distance Faiss keeps whichever it met
        sure = expected[row] < expected[row, -1]
        assert set(expected_ids[row][sure]) <= set(ids[row])


@pytest.mark.parametrize(("target", "package"), [("faiss-ivf", "faiss-cpu"), ("lance", "pylance")])
def test_an_export_names_the_missing_package(base, tmp_path, monkeypatch, run_command, target, package):
    monkeypatch.setattr("storage.export.optional.find_spec", lambda name: None)
    code, _, error = run_command("export", "mine__code16", "--to", target, "--out", str(tmp_path / "new" / "index"))
    assert (code, f": pip install {package}\n" in error) == (2, True), error
    assert not (tmp_path / "new").exists()


def test_the_targets_of_the_command_are_those_of_the_function(settings, base, tmp_path):
    assert get_args(Target) == tuple(export.TARGETS)
    with pytest.raises(LookupError, match=r"^unknown target 'solr' of an export: expected one of npy, .*, qdrant$"):
        export.export_version("mine__code16", "solr", str(tmp_path / "new"))
    about = export.export_version("mine__code16", "pgvector", str(tmp_path / "new"))
    assert (about["target"], about["bit_order"], about["rows"]) == ("pgvector", "bit j is character j", 800)
    files = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert files == ["codes.csv", "export.json", "index.sql", "schema.sql"]


def test_an_export_scores_as_the_table_does(settings, base, tmp_path):
    export.export_version("mine__code16", "npy", str(tmp_path / "arrays"))
    report = external.evaluate_files(
        *(str(tmp_path / "arrays" / f"{name}.npy") for name in ("codes", "labels")), n_queries=800
    )
    function = hashkiln.open("mine__code16").function
    codes, y = pack(function.encode(base.x)), pack_labels(base.y)
    rows = HammingHistogram(codes, BITS, y, base.ids)
    expected = metrics.average_precision(rows.update(rows.zero(), Batch(base.ids, codes, base.y))).mean()
    assert report.measured.metrics["map"].value == pytest.approx(expected, abs=1e-12)
    assert report.measured.rows == 799


def test_the_flow_is_the_function(settings, base, queries, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(search, "search", lambda *given: seen.append(given))
    search.search_flow.fn("mine__code16", queries[0], "out.parquet", Search(k=3), "v1")
    assert seen == [("mine__code16", queries[0], "out.parquet", Search(k=3), "v1")]
