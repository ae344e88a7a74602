"""Versions of code tables, on every filesystem: staged on a branch, published by moving main."""

import gc
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.manifest import ManifestFile
from sqlalchemy import event

from hashing.bits import pack
from hashing.families import LinearHash
from storage.features import dataset
from storage.features.shard import Columns, FeatureShard
from storage.files import filesystem
from storage.files.filesystem import join
from storage.formats import FeatureRows
from storage.tables import iceberg, log
from storage.tables.commits import PublishConflict
from storage.tables.parts import encode_shard
from storage.tables.table import create_table, future_folder, load_table, table_name, table_names
from tests.conftest import CATALOGS, STORES, blobs, empty_catalog, empty_folder

N_BITS, D = 16, 8
FUNCTION = LinearHash(np.random.default_rng(0).standard_normal((D, N_BITS)), np.zeros(N_BITS))
MODEL = {"model": "m1"}


# Each store, and each kind of catalog; the tests with EVERY_PLACE run with each combination of them.
PLACES = [("local", "sqlite"), ("s3", "rest"), ("gcs", "postgresql"), ("azure", "sqlite")]
EVERY_PLACE = pytest.mark.parametrize("place", list(product(STORES, CATALOGS)), indirect=True, ids="-".join)


@pytest.fixture(params=PLACES, ids="-".join)
def place(request):
    """The kinds of a store and of a catalog."""
    return request.param


@pytest.fixture
def folder(request, place):
    return empty_folder(request, place[0])


@pytest.fixture
def catalog(request, place, folder):
    return iceberg.open_catalog(empty_catalog(request, place[1]), folder)


@pytest.fixture
def parts(folder):
    """Three parts of 100 rows each: 00000.parquet, 00001.parquet, 00002.parquet."""
    batch = blobs(300, D)
    dataset.write_split(join(folder, "base"), [FeatureRows(batch.ids, batch.x, None)], 100)
    entries = filesystem.listing(join(folder, "base"), ".parquet")
    shards = [FeatureShard(e.url, e.url.rsplit("/", 1)[-1], e.version, D, Columns()) for e in entries]
    return [encode_shard(shard, FUNCTION, join(folder, "data")) for shard in shards]


def published(catalog, parts, name="t", model="m1"):
    """A table whose main holds some parts."""
    table = create_table(catalog, name, N_BITS)
    base = table.version()
    table.stage("staged-x", base.snapshot_id)
    table.replace("staged-x", parts, set(), {"model": model})
    table.publish(table.version("staged-x"), base.snapshot_id)
    return table


def shards_of(table, name="main"):
    return sorted(table.parts(table.version(name).snapshot_id))


def test_an_sqlite_catalog_exists_once_its_file_does(tmp_path):
    url = f"sqlite:///{tmp_path}/new/tables.db?timeout=30"
    assert not iceberg.catalog_exists(url)
    iceberg.open_catalog(url, str(tmp_path))
    assert iceberg.catalog_exists(url)
    assert iceberg.catalog_exists("postgresql+psycopg2://127.0.0.1:1/none")


def test_a_new_table_is_empty(catalog):
    table = create_table(catalog, "t", N_BITS)
    assert table.version().name == "v0"
    assert table.version().number == 0
    assert table.versions() == []
    assert table.parts(table.version().snapshot_id) == {}
    assert table_names(catalog) == ["t"]
    again = create_table(catalog, "t", N_BITS)
    assert again.version().snapshot_id == table.version().snapshot_id


@EVERY_PLACE
def test_readers_do_not_see_staged_parts_until_main_moves(catalog, parts):
    table = create_table(catalog, "t", N_BITS)
    reader = load_table(catalog, "t")
    base = table.version()
    table.stage("staged-x", base.snapshot_id)
    table.replace("staged-x", parts[:2], set(), MODEL)
    table.replace("staged-x", parts[2:], set(), MODEL)
    assert reader.refresh().parts(reader.version().snapshot_id) == {}
    assert shards_of(table, "staged-x") == ["00000.parquet", "00001.parquet", "00002.parquet"]
    version = table.publish(table.version("staged-x"), base.snapshot_id)
    assert version.name == "v1"
    assert version.properties["model"] == "m1"
    assert reader.refresh().version().name == "v1"
    assert reader.parts(reader.version().snapshot_id) == {part.shard: part for part in parts}
    assert not reader.has_ref("staged-x")
    assert [v.name for v in reader.versions()] == ["v1"]


def test_any_engine_reads_the_codes_from_the_metadata(catalog, parts):
    table = published(catalog, parts)
    expected = pack(FUNCTION.encode(blobs(300, D).x))
    scanned = catalog.load_table("codes.t").scan().to_arrow().sort_by("id")
    assert scanned.schema.names == ["id", "code", "labels", "shard", "version"]
    assert scanned.schema.field("code").type == pa.binary(2)
    assert scanned["code"].to_pylist() == [row.tobytes() for row in expected]
    assert set(scanned["shard"].to_pylist()) == {part.shard for part in parts}
    urls = [task.file.file_path for task in catalog.load_table("codes.t").scan().plan_files()]
    if "://" not in urls[0]:
        rows = duckdb.read_parquet(urls).order("id").project("code").fetchall()
        assert [row[0] for row in rows] == [row.tobytes() for row in expected]
    read = [batch for shard in table.shards(table.version().snapshot_id) for batch in shard]
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in read]), expected)


def test_parts_are_replaced_and_removed_in_one_snapshot(catalog, parts):
    table = published(catalog, parts)
    base = table.version()
    changed = parts[0]._replace(url=parts[0].url.replace(".parquet", "-2.parquet"), version="other", rows=99)
    table.stage("staged-y", base.snapshot_id)
    table.replace("staged-y", [changed], {"00002.parquet", "not there"}, MODEL)
    assert table.parts(table.version("staged-y").snapshot_id) == {changed.shard: changed, parts[1].shard: parts[1]}
    head = table.version("staged-y").snapshot_id
    table.replace("staged-y", [changed], {"00002.parquet"}, MODEL)  # nothing to do: no commit
    assert table.version("staged-y").snapshot_id == head
    table.replace("staged-y", [], set(), {**MODEL, "metrics": "{}"})  # new properties need a commit
    assert table.version("staged-y").properties == {**MODEL, "metrics": "{}"}
    assert table.parts(table.version("staged-y").snapshot_id).keys() == {changed.shard, parts[1].shard}
    assert shards_of(table) == ["00000.parquet", "00001.parquet", "00002.parquet"]


def test_a_snapshot_that_replaces_parts_is_that_of_pyiceberg(catalog, parts, monkeypatch):
    """It reads only the manifest of the removed part, once, and leaves out manifests that list no part any more."""
    first, second, third = parts
    table = published(catalog, [first, second])
    table.stage("staged-a", table.version().snapshot_id)
    table.replace("staged-a", [third], set(), MODEL)
    table.stage("staged-b", table.version("staged-a").snapshot_id)
    changed = first._replace(url=first.url.replace(".parquet", "-2.parquet"), version="other", rows=99)
    with table.iceberg.transaction() as tx, tx.update_snapshot(branch="staged-a").overwrite() as overwrite:
        overwrite.delete_data_file(iceberg.to_data_file(first, 0))
        overwrite.append_data_file(iceberg.to_data_file(changed, 0))
    opened = count_manifests(monkeypatch)
    assert shards_of(table, "staged-b") == sorted(part.shard for part in parts)
    assert len(opened) == 2
    table.replace("staged-b", [changed], set(), MODEL)
    assert len(opened) == 3
    (theirs, head), (ours, own) = (entries(table.refresh(), branch) for branch in ("staged-a", "staged-b"))
    assert ours == theirs
    totals = [{k: v for k, v in s.summary.additional_properties.items() if "hashkiln" not in k} for s in (head, own)]
    assert totals[0] == totals[1]
    assert table.parts(own.snapshot_id) == {part.shard: part for part in (changed, second, third)}
    table.replace("staged-b", [], {second.shard}, MODEL)
    lists = table.iceberg.snapshot_by_name("staged-b").manifests(table.iceberg.io)
    assert sorted(manifest.existing_files_count + manifest.added_files_count for manifest in lists) == [0, 1, 1]


def entries(table, branch):
    """Return what Iceberg knows of each file of a branch, and its snapshot."""
    snapshot, io = table.iceberg.snapshot_by_name(branch), table.iceberg.io
    found = set()
    for manifest in snapshot.manifests(io):
        for entry in manifest.fetch_manifest_entry(io, discard_deleted=False):
            numbers = entry.snapshot_id, entry.sequence_number, entry.file_sequence_number
            own = {snapshot.snapshot_id: "this", snapshot.sequence_number: "this"}
            file, counts = iceberg.to_part(entry.data_file), sorted(entry.data_file.value_counts.items())
            found.add((entry.status, *(own.get(number, number) for number in numbers), file, *counts))
    return found, snapshot


@EVERY_PLACE
def test_publishing_is_refused_when_main_has_moved(catalog, parts):
    table = published(catalog, parts[:1])
    base = table.version()
    for branch in ("staged-a", "staged-b"):
        table.stage(branch, base.snapshot_id)
    table.replace("staged-a", parts[1:2], set(), MODEL)
    table.replace("staged-b", parts[2:3], set(), MODEL)
    other = load_table(catalog, "t")
    assert other.publish(other.version("staged-a"), base.snapshot_id).name == "v2"
    with pytest.raises(
        PublishConflict, match=r"expected main of table t at snapshot .*, found .*: another run published"
    ):
        table.publish(table.version("staged-b"), base.snapshot_id)
    assert shards_of(table.refresh()) == ["00000.parquet", "00001.parquet"]
    assert table.has_ref("staged-b")


@pytest.mark.parametrize("published_before", [False, True])
def test_a_version_is_checked_again_if_rows_are_deleted_before_it_is_published(catalog, parts, published_before):
    table = published(catalog, parts[:1]) if published_before else create_table(catalog, "t", N_BITS)
    base, checks = table.version(), []
    table.stage("staged-a", base.snapshot_id)
    table.replace("staged-a", parts[1:2], set(), MODEL)

    def check():
        checks.append("checked")
        if len(checks) > 1:
            raise PublishConflict("rows were deleted")
        log.schedule_purge(load_table(catalog, "t"), ["staged-a"], 0, 1, "me")

    with pytest.raises(PublishConflict, match="rows were deleted"):
        table.publish(table.version("staged-a"), base.snapshot_id, check)
    assert table.refresh().version() == base
    assert table.has_ref("staged-a")


def test_a_rejected_version_is_kept_out_of_sight_of_readers(catalog, parts):
    table = published(catalog, parts[:1])
    table.stage("staged-a", table.version().snapshot_id)
    table.replace("staged-a", parts[1:], set(), MODEL)
    log.schedule_purge(table, ["staged-a"], 7, 1, "me")
    assert table.reject(table.version("staged-a")).name == "rejected-a"
    assert log.purge_deadlines(table) == {"rejected-a": 7}
    assert shards_of(table) == ["00000.parquet"]
    assert shards_of(table, "rejected-a") == ["00000.parquet", "00001.parquet", "00002.parquet"]
    assert not table.has_ref("staged-a")
    assert [version.name for version in table.versions()] == ["v1", "rejected-a"]


def test_two_runs_that_adopt_one_branch_add_no_part_twice(catalog, parts):
    table = create_table(catalog, "t", N_BITS)
    start = table.version().snapshot_id

    def run(order):
        mine = load_table(catalog, "t")
        mine.stage("staged-x", start)
        for i in order:
            mine.replace("staged-x", [parts[i]], set(), MODEL)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, ([0, 1, 2], [2, 1, 0], [1, 0, 2])))
    files = [
        task.file.file_path
        for task in catalog.load_table("codes.t")
        .scan(snapshot_id=table.refresh().version("staged-x").snapshot_id)
        .plan_files()
    ]
    assert sorted(files) == sorted(part.url for part in parts)


def test_parts_of_other_versions_are_read_from_the_manifests_that_added_them(catalog, parts, monkeypatch):
    """Published, staged or rejected. Manifests that only carry over existing parts are not read."""
    first, second, third = parts
    table = published(catalog, [first])
    v1 = table.version()
    for branch, part in (("staged-a", second), ("staged-b", third)):
        table.stage(branch, v1.snapshot_id)
        table.replace(branch, [part], set(), MODEL)
    table.reject(table.version("staged-b"))
    staged, rejected = table.version("staged-a"), table.version("rejected-b")
    opened = count_manifests(monkeypatch)
    assert list(table.added_parts(v1.snapshot_id, [v1, staged, rejected])) == [second, third]
    assert len(opened) == 2
    assert list(table.added_parts(staged.snapshot_id, [v1])) == []
    assert list(table.added_parts(rejected.snapshot_id, [v1, staged])) == [second]
    assert list(table.added_parts(v1.snapshot_id, [])) == []
    table.replace("staged-a", [], {first.shard}, MODEL)  # rewrites the manifest with the remaining parts
    opened = count_manifests(monkeypatch)
    assert list(table.added_parts(v1.snapshot_id, [table.version("staged-a")])) == [second]
    assert len(opened) == 1


def count_manifests(monkeypatch):
    """Forget the manifests that were read, and return a list to which the path of each is added when it is read."""
    opened, fetch = [], ManifestFile.fetch_manifest_entry

    def counted(manifest, *rest, **more):
        opened.append(manifest.manifest_path)
        return fetch(manifest, *rest, **more)

    monkeypatch.setattr("storage.tables.manifests._MANIFESTS", {})
    monkeypatch.setattr(ManifestFile, "fetch_manifest_entry", counted)
    return opened


def test_a_manifest_is_read_once_in_a_process(catalog, parts, monkeypatch):
    """So each commit and stage of a run reads what changed, and not the whole list of parts."""
    first, second, third = parts
    table = published(catalog, [first, second])
    opened = count_manifests(monkeypatch)
    table.stage("staged-x", table.version().snapshot_id)
    table.replace("staged-x", [third], set(), MODEL)
    assert len(opened) == 1
    again = load_table(catalog, "t")
    assert again.parts(again.version("staged-x").snapshot_id) == {part.shard: part for part in parts}
    assert len(opened) == 2
    again.replace("staged-x", [], set(), MODEL | {"report": "page"})
    assert shards_of(again, "staged-x") == sorted(part.shard for part in parts)
    assert len(opened) == 2


def test_parts_of_few_manifests_are_kept(catalog, parts, monkeypatch):
    monkeypatch.setattr("storage.tables.manifests.KEPT", 1)
    opened = count_manifests(monkeypatch)
    table = create_table(catalog, "t", N_BITS)
    table.stage("staged-x", table.version().snapshot_id)
    for part in parts:
        table.replace("staged-x", [part], set(), MODEL)
    opened.clear()
    assert shards_of(table, "staged-x") == shards_of(table, "staged-x") == sorted(part.shard for part in parts)
    assert len(opened) > len(parts)


def test_parts_are_found_where_only_a_rewritten_manifest_has_them(catalog, parts):
    """The version that added them is gone, as after gc; of the three parts of its one manifest, two are left."""
    first, second, third = parts
    table = published(catalog, parts)
    v1 = table.version()
    table.stage("staged-a", v1.snapshot_id)
    table.replace("staged-a", [], {first.shard}, MODEL)
    table.publish(table.version("staged-a"), v1.snapshot_id)
    v2 = table.version()
    table.stage("staged-b", v2.snapshot_id)
    table.replace("staged-b", [], {second.shard, third.shard}, {"model": "m2"})
    other = table.version("staged-b")
    assert sorted(part.shard for part in table.added_parts(other.snapshot_id, [v2])) == [second.shard, third.shard]
    assert list(table.added_parts(other.snapshot_id, [v1, v2])) == parts


def test_one_of_several_publishers_wins(catalog, parts):
    table = create_table(catalog, "t", N_BITS)
    base = table.version().snapshot_id
    for i in range(4):
        table.stage(f"staged-{i}", base)
        table.replace(f"staged-{i}", [parts[i % 3]], set(), MODEL)

    def publish(i):
        mine = load_table(catalog, "t")
        try:
            return mine.publish(mine.version(f"staged-{i}"), base).name
        except PublishConflict:
            return None

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(publish, range(4)))
    assert sorted(filter(None, results)) == ["v1"]
    winner = results.index("v1")
    assert shards_of(table.refresh()) == [parts[winner % 3].shard]


def test_the_vocabulary_only_grows(catalog):
    table = create_table(catalog, "t", N_BITS)
    assert table.vocabulary == ()
    assert table.add_labels(["b", "a"]) == ("b", "a")
    assert load_table(catalog, "t").add_labels(["a", "c"]) == ("b", "a", "c")
    assert table.add_labels(["d"]) == ("b", "a", "c", "d")  # even if another writer came first
    assert load_table(catalog, "t").vocabulary == ("b", "a", "c", "d")


def test_concurrent_writers_lose_no_labels(catalog):
    create_table(catalog, "t", N_BITS)

    def add(i):
        return load_table(catalog, "t").add_labels([f"label{i}", "common"])

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(add, range(8)))
    final = load_table(catalog, "t").vocabulary
    assert sorted(final) == sorted(["common", *(f"label{i}" for i in range(8))])
    assert all(final[: len(vocabulary)] == vocabulary for vocabulary in seen)


def test_the_width_of_a_table_never_changes(catalog):
    create_table(catalog, "t", N_BITS)
    with pytest.raises(ValueError, match="table t has codes of 16 bits, not 32"):
        create_table(catalog, "t", 32)


def test_the_correctives_of_a_table_are_checked_for_every_spelling_of_its_name(catalog):
    create_table(catalog, "t_wide", 8, correctives=("norm",))
    for name in ("t_wide", "t-wide"):
        assert load_table(catalog, name, 8, ("norm",)).name == "t_wide"
        with pytest.raises(ValueError, match="table t_wide has the columns norm, not no correctives"):
            load_table(catalog, name, 8, ())


def test_unknown_names_list_the_existing_ones(catalog, parts):
    published(catalog, parts)
    with pytest.raises(LookupError, match=r"^unknown code table 'u'; existing tables: t$"):
        load_table(catalog, "u")
    with pytest.raises(LookupError, match=r"^unknown version 'v9' of table t; existing versions: main, v1$"):
        load_table(catalog, "t").version("v9")


@pytest.mark.parametrize("name", ["a b", "A", "ä", "../x", "x;y"])
def test_table_names_are_plain(name):
    assert table_name("fashion-mnist", "itq-64") == "fashion_mnist__itq_64"
    with pytest.raises(ValueError, match="expected names of a-z, 0-9, _ and -"):
        table_name(name, "itq32")


def test_a_table_that_another_process_has_just_created_is_taken(catalog_url, tmp_path, monkeypatch):
    first, second = (iceberg.open_catalog(catalog_url, str(tmp_path)) for _ in range(2))
    created = create_table(first, "t", N_BITS)
    assert future_folder(second, "t", N_BITS) == created.folder
    monkeypatch.setattr("storage.tables.table.table_names", lambda catalog: [])  # as before the other one created it
    table = create_table(second, "t", N_BITS)
    assert table.iceberg.metadata.table_uuid == created.iceberg.metadata.table_uuid


def test_the_table_records_its_format(catalog, parts):
    published(catalog, parts)
    properties = catalog.load_table("codes.t").properties
    assert properties["hashkiln.format"] == "2"
    assert properties["hashkiln.n_bits"] == "16"
    assert "little" in properties["hashkiln.bit_order"]
    assert pq.read_schema(parts[0].url).names == ["id", "code"] if "://" not in parts[0].url else True


@pytest.mark.parametrize("catalog_url", ["sqlite", "postgresql"], indirect=True)
def test_a_catalog_that_is_no_longer_used_closes_its_connections(catalog_url, tmp_path):
    closed = []
    catalog = iceberg.open_catalog(catalog_url, str(tmp_path))
    event.listen(catalog.engine, "close", lambda *_: closed.append(True))
    connections = catalog.engine.pool.checkedin()
    del catalog
    gc.collect()
    assert len(closed) == connections > 0
