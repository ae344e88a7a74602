"""A table of a quantizer: its correctives are stored, verified and exported, and its rows are ranked by estimates."""

import re
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest

import hashkiln as public
from hashing.bits import pack
from hashing.mapreduce import Batch
from hashing.neighbours.exact import pair_distances
from hashing.quantizers.estimator import row_bytes
from hashing.quantizers.rabitq import RaBitQHash
from storage import models
from storage.tables import integrity
from storage.tables.parts import encode_shard
from tests.conftest import blobs
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import D, hashkiln, reindex, spec, table_of, write
from workflows import export
from workflows.checks import check_run
from workflows.datasets import dataset_of
from workflows.spec import Spec
from workflows.tables import deletion
from workflows.tables.verify import verify

settings, source = published_table.settings, published_table.source  # fixtures
TABLE = "mine__rabitq16"
BITS = 2 * D


def quantized(bits=BITS, code="rabitq16", **changes):
    return spec(method={"method": "rabitq", "bits": bits}, code=code, **changes)


@pytest.fixture
def published(settings, source):
    """Return ids (n,) and vectors (n, d) of a table of RaBitQ."""
    assert reindex(settings, quantized()) == "v1"
    batches = [blobs(200, D, seed=i, first_id=1000 * i) for i in range(4)]
    return np.concatenate([batch.ids for batch in batches]), np.concatenate([batch.x for batch in batches])


@pytest.fixture
def queries():
    return blobs(12, D, seed=9).x


def estimates(function, x, queries, real=False):
    u, correctives = map(np.concatenate, zip(*function.quantized(x), strict=True))
    return function.estimator(queries, "euclidean", real)(
        Batch(np.arange(len(x)), row_bytes(pack(u >= 0), correctives))
    )


def nearest(distances, ids, k):
    order = np.lexsort((np.broadcast_to(ids, distances.shape), distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, 1), ids[order]


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize("real", [False, True])
def test_search_ranks_by_the_estimates(published, queries, resident, real):
    ids, x = published
    table = public.open(TABLE, resident=resident)
    distances, found = table.search(queries, k=7, asymmetric=real)
    expected = nearest(estimates(table.function, x, queries, real), ids, 7)
    np.testing.assert_array_equal(found, expected[1])
    np.testing.assert_array_equal(distances, expected[0])


def test_search_reranks_the_candidates_of_the_estimates(published, queries):
    ids, x = published
    distances, found = public.open(TABLE).search(queries, k=5, rerank=40)
    pairs = pair_distances(queries, x, np.repeat(np.arange(12), len(x)), np.tile(np.arange(len(x)), 12))
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


def test_parts_hold_the_correctives_and_the_export_too(published, settings, tmp_path):
    _, x = published
    table = table_of(settings, TABLE)
    function = models.load_model(settings.warehouse_url, table.version().properties["model"])
    assert (table.format, table.correctives) == (3, function.columns)
    scanned = table.iceberg.scan().to_arrow().sort_by("id")
    _, correctives = next(function.quantized(x))
    for i, name in enumerate(function.columns):
        np.testing.assert_array_equal(scanned[name].to_numpy(), correctives[:, i])
    found = export.export_version(TABLE, "npy", str(tmp_path / "out"))
    assert found["correctives"] == function.columns
    order = np.argsort(np.load(tmp_path / "out" / "ids.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "correctives.npy")[order], correctives)
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "codes.npy")[order], pack(function.encode(x)))


def test_a_table_is_extended_and_deleted_from_and_sound_throughout(published, queries, settings, source):
    write(source, "4.parquet", blobs(50, D, seed=4, first_id=4000))
    assert reindex(settings, quantized()) == "v2"
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
        return u, correctives * np.where(x[:, :1] > 0, np.float32(1.5), np.float32(1))


def test_verify_compares_the_correctives_with_the_source(published, settings):
    version = table_of(settings, TABLE).version()
    function = models.load_model(settings.warehouse_url, version.properties["model"])
    shard = dataset_of(Spec.stored(version.properties["spec"]), settings).shards("base")[0]
    part = encode_shard(
        shard, Wrong(function.rotation, function.centre, function.bits), table_of(settings, TABLE).folder
    )
    found = integrity.compare_with_source((part, shard), function)
    wrong = int((next(iter(shard)).x[:, 0] > 0).sum())
    assert [problem.split(" in ")[0] for problem in found.problems] == [f"the correctives of {wrong} rows"]


def test_a_table_of_codes_keeps_its_format_and_never_mixes_with_correctives(settings, source):
    assert table_of(settings).format == 2
    with pytest.raises(ValueError, match="table mine__code has the columns no correctives, not step, squared_norm"):
        reindex(settings, quantized(bits=D, code="code"))


def test_an_older_program_refuses_a_table_with_correctives(published, settings, monkeypatch):
    monkeypatch.setattr("storage.tables.table.WITH_CORRECTIVES", 2)
    with pytest.raises(ValueError, match="has format 3, newer than 2: upgrade hashkiln"):
        table_of(settings, TABLE)
