"""The stages of re-indexing without a flow: what they encode, publish and refuse."""

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.executors import InProcess
from infra.settings import Settings
from storage.features.rows import Columns
from storage.files import filesystem
from storage.tables.parts import CodeShard
from tests.conftest import blobs
from tests.workflows.conftest import (
    CLASSES,
    SPEC,
    D,
    encoded_from_source,
    own_rows_of_most_queries,
    published_codes,
    reindex,
    spec,
    table_of,
    write_shard,
)
from workflows import datasets
from workflows.context import Context
from workflows.reader import Search
from workflows.reindex import fitting, planning, publishing, staging
from workflows.search import search
from workflows.spec import Spec
from workflows.tables import deletion, gc, history


def test_published_codes_equal_the_encoded_source(settings, mine):
    staged, report, version = reindex(settings, spec())
    assert (version, staged.rows, staged.encoded, staged.removed) == ("v1", 800, 800, 0)
    assert published_codes(settings) == encoded_from_source(settings, mine)
    properties = table_of(settings).version().properties
    assert properties["model"] == staged.model.digest
    assert Spec.model_validate_json(properties["spec"]) == spec()
    assert properties["report"] == "page"
    assert report.comparison is None


def test_relative_paths_are_stored_as_absolute_ones(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    for name, value in {
        "HOME": str(tmp_path),
        "HASHKILN_HOME": "home",
        "HASHKILN_EXECUTOR": "inprocess",
        "HASHKILN_WAREHOUSE": "warehouse",
        "HASHKILN_CATALOG": "sqlite:///tables.db?timeout=30",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    columns = Columns(id="key", x="embedding", labels="tags")
    dataset = datasets.ingest_source("mine", "~/source", settings, columns, query="source/part0.parquet")
    assert dataset.splits == {"base": str(source), "query": str(source / "part0.parquet")}
    assert spec(source="raw").source == str(tmp_path / "raw")
    reindex(settings, spec())
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HASHKILN_WAREHOUSE", str(tmp_path / "warehouse"))
    monkeypatch.setenv("HASHKILN_CATALOG", f"sqlite:///{tmp_path}/tables.db")
    assert reindex(Settings(), spec())[0].unchanged
    assert published_codes(Settings()) == encoded_from_source(Settings(), dataset)


def test_a_second_run_finds_nothing_to_do(settings, mine):
    reindex(settings, spec())
    snapshots = table_of(settings).versions()
    staged, _, version = reindex(settings, spec())
    assert staged.unchanged
    assert (version, staged.encoded) == ("v1", 0)
    assert table_of(settings).versions() == snapshots


def test_only_changed_shards_are_encoded(settings, mine, source):
    reindex(settings, spec())
    before = table_of(settings).parts(table_of(settings).version().snapshot_id)
    write_shard(source, "part1.parquet", blobs(150, D, seed=9, first_id=1000))  # changed
    write_shard(source, "part9.parquet", blobs(70, D, seed=10, first_id=9000))  # added
    (source / "part3.parquet").unlink()  # removed
    staged, report, version = reindex(settings, spec())
    assert (version, staged.rows, staged.encoded, staged.removed) == ("v2", 620, 220, 2)
    after = table_of(settings).parts(table_of(settings).version().snapshot_id)
    assert {name for name in after if before.get(name) == after[name]} == {"part0.parquet", "part2.parquet"}
    assert published_codes(settings) == encoded_from_source(settings, mine)
    assert staged.model.digest == table_of(settings).version("v1").properties["model"]
    assert report.comparison.rows == 550 - len(own_rows_of_most_queries(settings))


def test_in_process_and_ray_publish_the_same_files(settings, mine, monkeypatch, tmp_path, ray_executor):
    _, report, _ = reindex(settings, spec())
    monkeypatch.setenv("HASHKILN_HOME", str(tmp_path / "other"))
    other = Settings()
    datasets.ingest_source("mine", mine.splits["base"], other, mine.columns)
    _, other_report, _ = reindex(other, spec(), ray_executor)
    names = [
        sorted(part.url.rsplit("/", 1)[1] for part in table_of(s).parts(table_of(s).version().snapshot_id).values())
        for s in (settings, other)
    ]
    assert names[0] == names[1]  # the names are the SHA-256 of the content
    assert other_report == report


def test_a_new_model_makes_every_shard_stale(settings, mine, source):
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(400, D, seed=4, first_id=4000))
    kept, _, _ = reindex(settings, spec())
    assert (kept.encoded, kept.removed) == (400, 0)  # refit never: the published model is used for all new rows
    refit, _, version = reindex(settings, spec(refit="always", gate={"force": "test"}))
    assert (version, refit.encoded, refit.removed) == ("v3", 1200, 5)
    assert refit.model.digest != kept.model.digest
    assert published_codes(settings) == encoded_from_source(settings, mine)
    assert reindex(settings, spec(refit="always"))[0].unchanged


def test_another_method_for_the_same_table_needs_a_refit(settings, mine):
    reindex(settings, spec(code="codes16"))
    other = {"code": "codes16", "method": {"method": "lsh", "bits": 16}}
    with pytest.raises(ValueError, match="table mine__codes16 has a model fitted as"):
        reindex(settings, spec(**other))
    _, _, version = reindex(settings, spec(**other, refit="always", gate={"force": "test"}))
    assert version == "v2"
    with pytest.raises(ValueError, match="table mine__codes16 has codes of 16 bits, not 32"):
        reindex(settings, spec(code="codes16", method={"method": "lsh", "bits": 32}, refit="always"))


def test_an_interrupted_run_resumes_where_it_stopped(settings, mine, source, monkeypatch):
    """A bad shard stops the first run; the parts encoded before it are not encoded again."""
    good = (source / "part2.parquet").read_bytes()
    batch = blobs(200, D, seed=2, first_id=2000)
    batch.x[7, 3] = np.nan
    monkeypatch.setenv("HASHKILN_COMMIT_SHARDS", "1")
    settings = Settings()
    model = fitting.fit(Context.of(spec(), settings, InProcess()))
    stamp = (source / "part2.parquet").stat()
    write_shard(source, "part2.parquet", batch)
    with pytest.raises(ValueError, match=r"NaN or infinity, in row 7 of .*part2\.parquet"):
        staging.stage(Context.of(spec(), settings, InProcess()), model)
    with pytest.raises(ValueError, match=r"NaN or infinity, in row 7 of .*part2\.parquet; reindex and embed leave out"):
        staging.stage(Context.of(spec(), settings, InProcess()), model)
    (branch,) = [v.name for v in table_of(settings).versions()]
    assert sorted(table_of(settings).parts(table_of(settings).version(branch).snapshot_id)) == [
        "part0.parquet",
        "part1.parquet",
    ]
    assert table_of(settings).version().name == "v0"
    (source / "part2.parquet").write_bytes(good)
    assert stamp.st_size == len(good)
    staged, _, version = reindex(settings, spec())
    assert (version, staged.rows) == ("v1", 800)


def test_parts_of_other_versions_by_the_same_model_are_reused(settings, mine, source):
    """From versions rolled back, rejected or only staged, unless the part is damaged."""
    reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=4000))
    reindex(settings, spec())
    history.rollback("mine__itq16")
    write_shard(source, "part5.parquet", blobs(60, D, seed=5, first_id=5000))
    with pytest.raises(publishing.GateRejected):
        reindex(settings, spec(gate={"floors": {"map": 1.0}}))
    assert (
        planning.forecast(Context.of(spec(), settings, InProcess())).rows == 0
    )  # the same plan as that of the rejected version
    write_shard(source, "part6.parquet", blobs(70, D, seed=6, first_id=6000))
    model = fitting.fit(Context.of(spec(), settings, InProcess()))
    assert staging.stage(Context.of(spec(), settings, InProcess()), model).encoded == 70
    (source / "part0.parquet").unlink()
    found = planning.forecast(Context.of(spec(), settings, InProcess()))
    assert found.plan.found == ("part4.parquet", "part5.parquet", "part6.parquet")
    assert (found.rows, found.plan.missing, found.plan.empty) == (0, [], False)
    (part,) = (p for v in table_of(settings).versions() for p in parts_of(settings, v) if p.shard == "part6.parquet")
    Path(part.url).write_bytes(b"torn")
    staged, _, version = reindex(settings, spec())
    assert (version, staged.encoded, staged.rows, staged.removed) == ("v3", 70, 780, 1)
    assert published_codes(settings) == encoded_from_source(settings, mine)


def parts_of(settings, version):
    return table_of(settings).parts(version.snapshot_id).values()


@pytest.mark.parametrize("first", ["published", "rejected"])
def test_deleted_rows_do_not_come_back_with_an_old_part(settings, mine, source, first):
    """A restored file has its old version, and a rejected version still has its part."""
    if first == "published":
        reindex(settings, spec())
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=4000))
    with pytest.raises(publishing.GateRejected):
        reindex(settings, spec(gate={"floors": {"map": 1.0}}))
    (source / "part4.parquet").rename(source / "aside")
    deletion.delete("mine", [4007])
    (source / "aside").rename(source / "part4.parquet")
    assert "part4.parquet" in planning.forecast(Context.of(spec(), settings, InProcess())).plan.found
    staged, _, _ = reindex(settings, spec())
    assert (staged.encoded, staged.rows) == (49, 849)
    assert 4007 not in published_codes(settings)


def test_an_id_in_two_shards_is_refused(settings, mine, source):
    write_shard(source, "part4.parquet", blobs(50, D, seed=4, first_id=3190))
    with pytest.raises(ValueError, match=r"found 10 in two shards: 3190 in part3\.parquet and part4\.parquet, 3191 in"):
        reindex(settings, spec())
    assert table_of(settings).version().name == "v0"


@pytest.mark.parametrize("store", ["s3", "gcs", pytest.param("azure", marks=pytest.mark.slow)])
def test_a_run_with_everything_in_a_store(mine, store, request, monkeypatch, tmp_path):
    """Source, warehouse and models in a store: runs, a search whose queries are there too, and garbage collection."""
    bucket = f"{request.getfixturevalue(store)}/{tmp_path.name}"
    for shard in mine.shards("base"):
        with open(shard.url, "rb") as file:
            filesystem.write_bytes(f"{bucket}/source/{shard.name}", file.read())
    monkeypatch.setenv("HASHKILN_WAREHOUSE", f"{bucket}/warehouse")
    settings = Settings()
    dataset = datasets.ingest_source("mine", f"{bucket}/source", settings, mine.columns)
    staged, _, version = reindex(settings, spec(), InProcess())
    assert (version, staged.encoded) == ("v1", 800)
    assert published_codes(settings) == encoded_from_source(settings, dataset)
    filesystem.remove(f"{bucket}/source/part3.parquet")
    staged, _, version = reindex(settings, spec(), InProcess())
    assert (version, staged.rows, staged.encoded, staged.removed) == ("v2", 600, 0, 1)
    assert reindex(settings, spec())[0].unchanged
    search("mine__itq16", f"{bucket}/source/part0.parquet", str(tmp_path / "found.parquet"), Search(k=1))
    assert pq.read_table(tmp_path / "found.parquet")["distance"].to_pylist() == [0] * 200
    gone = gc.gc(grace=0, keep=1, force=True, clock=lambda: time.time() + 5)
    assert {"version", "snapshot", "file"} <= {item.kind for item in gone.items}
    assert published_codes(settings) == encoded_from_source(settings, dataset)


def test_new_labels_take_the_next_places(settings, mine, source):
    reindex(settings, spec())
    assert table_of(settings).vocabulary == tuple(CLASSES)
    batch = blobs(30, D, seed=4, first_id=4000)
    table = pa.table({"key": batch.ids, "embedding": pa.array(batch.x.tolist()), "tags": [["aardvark", "bee"]] * 30})
    pq.write_table(table, source / "part4.parquet")
    reindex(settings, spec())
    assert table_of(settings).vocabulary == (*CLASSES, "aardvark")
    part = table_of(settings).parts(table_of(settings).version().snapshot_id)["part4.parquet"]
    (read,) = CodeShard(part, 16, range(7))
    np.testing.assert_array_equal(read.y, np.tile([0, 1, 0, 0, 0, 0, 1], (30, 1)))


def test_rows_with_string_keys_have_permanent_ids(settings, tmp_path):
    """--key-column: the id is the position of the key in an append-only map, in whichever shard the key is."""

    def write(name, first, n):
        batch = blobs(n, D, seed=first, first_id=first)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.x.ravel()), D)
        (tmp_path / "keyed").mkdir(exist_ok=True)
        pq.write_table(pa.table({"sku": [f"sku{i}" for i in batch.ids], "v": vectors}), tmp_path / "keyed" / name)

    def key_of_id():
        parts = sorted((settings.home / "warehouse" / "datasets" / "keyed" / "keys").iterdir())
        rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
        return {row["id"]: row["key"] for row in rows}

    write("a.parquet", 0, 100)
    write("b.parquet", 500, 100)
    dataset = datasets.ingest_source("keyed", str(tmp_path / "keyed"), settings, Columns(id="sku", keyed=True, x="v"))
    of = Spec.model_validate({**SPEC, "dataset": "keyed", "protocol": {"queries": 20, "neighbours": 5}})
    reindex(settings, of)
    before = key_of_id()
    assert sorted(before) == list(range(200))
    assert set(before.values()) == {f"sku{i}" for i in [*range(100), *range(500, 600)]}
    (tmp_path / "keyed" / "a.parquet").unlink()
    write("c.parquet", 50, 100)  # half of its keys were in the shard that has gone
    staged, _, version = reindex(settings, of)
    assert (version, staged.encoded) == ("v2", 100)
    after = key_of_id()
    assert before.items() <= after.items()
    assert len(after) == 250
    assert published_codes(settings, "keyed__itq16") == encoded_from_source(settings, dataset, "keyed__itq16")
    assert {after[i] for i in published_codes(settings, "keyed__itq16")} == {
        f"sku{i}" for i in [*range(50, 150), *range(500, 600)]
    }
    write("d.parquet", 140, 20)
    with pytest.raises(ValueError, match="expected unique keys, found 10 in two shards"):
        reindex(settings, of)
