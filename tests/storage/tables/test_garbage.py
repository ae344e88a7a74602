"""A collection leaves exactly the files that versions need, and never breaks readers."""

import hashlib
import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.files import filesystem
from storage.files.filesystem import join
from storage.files.uploads import incomplete_uploads
from storage.tables import garbage, iceberg, log
from storage.tables.commits import PublishConflict
from storage.tables.part_index import index_url
from storage.tables.parts import Part, quarantine_urls
from storage.tables.table import create_table, load_table

DAY = 86_400
MODEL = {"model": "m"}


@pytest.fixture
def table(catalog):
    return create_table(catalog, "t", 16)


def in_days(days):
    return lambda: time.time() + days * DAY


def part(table, shard, seed=0):
    """A file in the folder of parts. Its content does not matter to a collection."""
    content = f"{shard} {seed}".encode() * 9
    url = join(table.folder, "data", f"{hashlib.sha256(content).hexdigest()}.parquet")
    filesystem.write_bytes(url, content)
    return Part(url, shard, str(seed), 9, len(content), 0, 8)


def staged(table, branch, *parts, remove=(), properties=MODEL):
    table.stage(branch, table.refresh().version().snapshot_id)
    for one in parts:
        table.replace(branch, [one], set(remove), properties)
    return table.version(branch)


def publish(table, *parts, remove=()):
    base = table.refresh().version().snapshot_id
    return table.publish(staged(table, "staged-x", *parts, remove=remove), base)


def files_of(table, name):
    return {part.url for part in table.parts(table.version(name).snapshot_id).values()}


def needed(catalog, name="t"):
    """Every file that a snapshot of the table references, and the metadata log."""
    table = catalog.load_table(f"codes.{name}")
    found = {table.metadata_location} | {entry.metadata_file for entry in table.metadata.metadata_log}
    for snapshot in table.snapshots():
        found |= {snapshot.manifest_list} | {manifest.manifest_path for manifest in snapshot.manifests(table.io)}
        found |= {task.file.file_path for task in table.scan(snapshot_id=snapshot.snapshot_id).plan_files()}
    return found


def there(table):
    return {file.url for file in filesystem.inventory(table.iceberg.location())}


@pytest.mark.parametrize("catalog", ["local", "s3", "postgresql"], indirect=True)  # a table bucket has no other folders
def test_exactly_the_files_that_versions_need_are_left(catalog, table):
    publish(table, part(table, "a"), part(table, "b"))
    publish(table, part(table, "b", 1), part(table, "c"))
    publish(table, part(table, "d"), remove=["a"])
    publish(table, part(table, "d", 1), part(table, "e"))
    table.reject(staged(table, "staged-no", part(table, "f")))
    staged(table, "staged-live", part(table, "g"), part(table, "h"))
    uncommitted = part(table, "never committed")
    partial = join(table.folder, "data", f".{'0' * 64}.parquet.{'1' * 32}")
    lost_race = join(table.iceberg.location(), "metadata", "00099-deadbeef.metadata.json")
    urls = min(files_of(table, "main")), uncommitted.url
    beside = [{*quarantine_urls(url), index_url(url)} for url in urls]
    referenced, unreferenced = beside[0], beside[1] | {index_url(urls[0]).replace("-1.mih", "-0.mih")}
    foreign = join(table.folder, "data", "notes.txt")
    for url in (partial, lost_race, *referenced, *unreferenced, foreign):
        filesystem.write_bytes(url, b'{"format-version": 2, "partial')
    planned = garbage.collect(table, 0, keep=2, dry_run=True)
    assert needed(catalog) | {uncommitted.url, partial, lost_race, foreign} | referenced | unreferenced <= there(table)
    found = garbage.collect(table, 0, keep=2)
    assert found.versions.keys() == planned.versions.keys() == {"v1", "v2", "rejected-no"}
    assert {file.url for file in planned.files} == {file.url for file in found.files}
    assert {uncommitted.url, partial, lost_race} | unreferenced < {file.url for file in found.files}
    assert there(table) == needed(catalog) | referenced | {foreign}
    assert {version.name for version in table.versions()} == {"v3", "v4", "staged-live"}
    held = {snapshot.snapshot_id for snapshot in table.iceberg.metadata.snapshots}
    steps = held - {ref.snapshot_id for ref in table.iceberg.refs().values()}
    assert steps == {table.iceberg.snapshot_by_name("staged-live").parent_snapshot_id}  # the first of its two commits
    again = garbage.collect(table, 0, keep=2)
    assert (again.versions, again.snapshots) == ({}, ())
    assert there(table) == needed(catalog) | referenced | {foreign}
    assert garbage.collect(table, 0, keep=2).files == ()
    assert publish(table, part(table, "z")).name == "v5"


def test_readers_that_opened_a_version_within_the_grace_period_find_its_files(tmp_path):
    """However old the files are: the period starts when the version loses its name."""
    catalog = iceberg.open_catalog(f"sqlite:///{tmp_path / 'catalog.db'}", str(tmp_path))
    table = create_table(catalog, "t", 16)
    publish(table, part(table, "a"))
    publish(table, part(table, "a", 1))
    reader = load_table(catalog, "t")
    pinned = files_of(reader, "v1")
    for url in there(table):  # only possible on the local disk
        os.utime(url, (time.time() - 30 * DAY,) * 2)
    garbage.collect(table, DAY, keep=1)
    assert not table.has_ref("v1")
    assert pinned <= there(table)
    assert files_of(reader, "v1") == pinned  # its metadata exists as well
    garbage.collect(table, DAY, keep=1, clock=in_days(0.9))
    assert pinned <= there(table)
    garbage.collect(table, DAY, keep=1, clock=in_days(1.1))
    assert not pinned & there(table)
    assert there(table) == needed(catalog)


def test_digests_of_versions_stay_referenced_for_a_grace_period_after_they_are_dropped(catalog, table):
    models, start = ([letter * 64 for letter in letters] for letters in ("ab", "c"))
    summaries = [{"model": models[0], "spec": "{}"}, {"model": models[1], "spec": f'{{"pretrained": "{start[0]}"}}'}]
    for i, properties in enumerate(summaries):
        version = staged(table, f"staged-{i}", part(table, "a", i), properties=properties)
        table.publish(version, table.version().snapshot_id)
    assert garbage.referenced_digests(table, DAY) == {*models, *start}
    garbage.collect(table, DAY, keep=1)
    assert not table.has_ref("v1")
    assert garbage.referenced_digests(table, DAY) == {*models, *start}
    assert garbage.referenced_digests(table, DAY, clock=in_days(1.1)) == {models[1], *start}


@pytest.mark.parametrize("catalog", ["local"], indirect=True)
def test_a_collection_during_a_reindex_leaves_its_parts(catalog, table):
    publish(table, part(table, "a"))
    base = table.version().snapshot_id
    staged(table, "staged-run", part(table, "b"), part(table, "c"))
    written = part(table, "d")  # not committed yet
    assert garbage.collect(table, 3600).versions == {}
    assert written.url in there(table)
    run = load_table(catalog, "t")
    run.replace("staged-run", [written], set(), MODEL)
    garbage.collect(table, DAY, clock=in_days(8))  # old, but its base is still published: the next run adopts it
    assert run.publish(run.refresh().version("staged-run"), base).name == "v2"
    assert files_of(run, "v2") <= there(table)
    assert len(files_of(run, "v2")) == 4


@pytest.mark.parametrize("catalog", ["local"], indirect=True)
def test_an_old_staged_version_is_dropped_if_its_base_is_no_longer_published(table):
    publish(table, part(table, "a"))
    staged(table, "staged-late", part(table, "b"), part(table, "c"))
    late = files_of(table, "staged-late")
    publish(table, part(table, "d"))
    assert garbage.collect(table, DAY).versions == {}
    assert late <= there(table)
    (why,) = garbage.collect(table, DAY, clock=in_days(2)).versions.values()
    assert why == "its base is no longer published, and it is older than the grace period"
    assert late & there(table) == files_of(table, "v1")


@pytest.mark.parametrize("catalog", ["local"], indirect=True)
def test_versions_with_deleted_rows_are_dropped_by_their_deadline_and_the_current_one_stays(catalog, table):
    publish(table, part(table, "a"))
    publish(table, part(table, "a", 1))
    publish(table, part(table, "a", 2))
    due = int((time.time() + 30 * DAY) * 1000)
    log.schedule_purge(table, ["v1", "v3"], due, 7, "me")
    with pytest.raises(ValueError, match="cannot roll back to v1: it holds deleted rows, and is removed by 20"):
        log.roll_back(table, "v1", table.version().snapshot_id, "me")
    log.schedule_purge(table, ["v1"], due + 1, 7, "me")  # the earlier deadline stays
    assert log.purge_deadlines(table) == {"v1": due, "v3": due}
    assert garbage.collect(table, 7 * DAY, clock=in_days(22)).versions == {}
    found = garbage.collect(table, 7 * DAY, clock=in_days(23.1))
    assert list(found.versions) == ["v1"]
    assert found.versions["v1"].startswith("holds deleted rows, which must be gone by 20")
    assert there(table) == needed(catalog)
    assert table.version().name == "v3"


@pytest.mark.parametrize("catalog", ["local", "s3"], indirect=True)
def test_old_incomplete_uploads_are_aborted(table):
    if "://" not in table.folder + "/data":
        assert incomplete_uploads(table.folder + "/data", math.inf) == []
        return
    url = join(table.folder, "data", "big.parquet")
    fs, path = filesystem._open(url)
    bucket, _, key = path.partition("/")
    token = fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)["UploadId"]
    assert garbage.collect(table, 3600).uploads == ()
    assert [upload[:2] for upload in incomplete_uploads(table.folder + "/data", math.inf)] == [(url, token)]
    for dry_run in (True, False):
        (upload,) = garbage.collect(table, DAY, dry_run=dry_run, clock=in_days(2)).uploads
        assert upload.upload_id == token
    assert incomplete_uploads(table.folder + "/data", math.inf) == []


@pytest.mark.parametrize("catalog", ["local", "s3"], indirect=True)
def test_nothing_is_deleted_if_a_needed_file_is_missing(table):
    publish(table, part(table, "a"))
    uncommitted = part(table, "uncommitted")
    filesystem.remove(min(files_of(table, "v1")))
    with pytest.raises(FileNotFoundError, match=r"nothing was deleted; run `hashkiln verify t`"):
        garbage.collect(table, 0)
    assert uncommitted.url in there(table)


@pytest.mark.parametrize("catalog", ["local", "s3"], indirect=True)
def test_a_file_written_again_since_the_inventory_stays(table):
    part(table, "o")
    (listed,) = filesystem.inventory(table.folder + "/data")
    assert not garbage.remove_if_older(listed, time.time() - DAY)
    assert filesystem.exists(listed.url)
    assert garbage.remove_if_older(listed, time.time() + DAY)
    assert not garbage.remove_if_older(listed, time.time() + DAY)


def test_concurrent_collectors_drop_a_version_once(catalog, table):
    for i in range(4):
        publish(table, part(table, "a", i))
    barrier = threading.Barrier(3)

    def collect(_):
        mine = load_table(catalog, "t")
        barrier.wait()
        return garbage.collect(mine, 3600, keep=1).versions

    with ThreadPoolExecutor(3) as pool:
        dropped = [name for found in pool.map(collect, range(3)) for name in found]
    assert sorted(dropped) == ["v1", "v2", "v3"]
    assert [version.name for version in table.refresh().versions()] == ["v4"]
    assert len(table.iceberg.metadata.snapshots) == 1


def test_a_branch_begun_while_its_start_is_collected_is_kept_or_refused(catalog, table):
    """Never left without its snapshot, at whichever of the two commits of a collection it begins."""
    publish(table, part(table, "a"))
    publish(table, part(table, "a", 1))
    start = table.version("v1").snapshot_id
    late = load_table(catalog, "t")
    garbage.collect(table, 3600, keep=1)
    with pytest.raises(PublishConflict, match=f"snapshot {start} of table t is gone or has changed"):
        late.stage("staged-late", start)
    assert not late.has_ref("staged-late")


def test_concurrent_writers_and_collectors_lose_nothing(catalog, table):
    publish(table, part(table, "a"))
    done = threading.Event()

    def collect():
        mine, rounds = load_table(catalog, "t"), 0
        while not done.is_set() or not rounds:
            try:
                garbage.collect(mine, 3600, keep=1)
            except PublishConflict:  # other writers came first in all attempts
                continue
            rounds += 1
        return rounds

    def write():
        mine = load_table(catalog, "t")
        try:
            return [publish(mine, part(mine, "a", i), part(mine, str(i))).name for i in range(1, 7)]
        finally:
            done.set()

    with ThreadPoolExecutor(2) as pool:
        rounds, names = pool.submit(collect), pool.submit(write)
        assert names.result() == [f"v{i}" for i in range(2, 8)]
        assert rounds.result() > 0
    garbage.collect(table, 0, keep=1)
    assert there(table) == needed(catalog)
    assert len(files_of(table, "main")) == 7
