"""A published table is verified, and what nothing names any more is collected."""

import hashlib
import os
import time
from pathlib import Path

import numpy as np
import one_table
import pyarrow.parquet as pq
import pytest
from conftest import blobs
from one_table import DAY, TABLE, D, hashkiln, in_days, part_of, reindex, rows_of, spec, table_of, write

from hashing.bits import pack
from infra.executors import InProcess
from storage import models, queries
from storage.files import filesystem
from storage.tables.parts import Part, _parquet_bytes, _table, _verified, read_ids
from workflows import reader
from workflows.cli.maintenance import duration
from workflows.context import Context
from workflows.evaluation import version
from workflows.reindex import fitting
from workflows.tables import gc, verify

settings, source = one_table.settings, one_table.source  # fixtures


def test_a_sound_table_has_no_problems_and_deep_compares_every_bit(settings, source, ray_executor, monkeypatch):
    found = verify.verify(TABLE, deep=True)
    assert (found.parts, found.rows, found.problems, found.notes) == (4, 800, (), ())
    assert (found.rechecked, found.bits, found.near) == (4, 800 * 16, 0)
    assert verify.verify(TABLE, deep=True, sample=2).bits == 400 * 16
    monkeypatch.setattr(verify, "connect", lambda *_: ray_executor)
    assert verify.verify(TABLE, deep=True) == found
    code, output = hashkiln("verify", TABLE)
    assert (code, output.split(": ", 1)[1]) == (0, "4 parts, 800 rows: no problems\n")


def flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda path: path.unlink(), "part {url} of {size} bytes is missing"),
        (lambda path: path.write_bytes(b"torn"), "expected a part of {size} bytes, found 4, in {url}"),
        (lambda path: flip(path, 600), "expected a part of SHA-256 {name}, found "),
        (lambda path: flip(path, -3), "expected a part of SHA-256 {name}, found "),
    ],
)
def test_a_part_that_is_not_what_was_written_is_found_and_never_read(settings, source, harm, message):
    part = part_of(settings, "2.parquet")
    harm(Path(part.url))
    _verified.clear()  # as in a new process
    (problem,) = verify.verify(TABLE).problems
    told = message.format(size=part.size, url=part.url, name=Path(part.url).stem)
    assert problem.startswith(told)
    assert hashkiln("verify", TABLE)[0] == 1
    with pytest.raises((OSError, ValueError)):
        rows_of(settings)
    with pytest.raises((OSError, ValueError)):
        reader.open(TABLE).search(np.zeros((1, D), np.float32))


def test_a_flipped_bit_of_an_id_is_noticed_where_ids_alone_are_read(settings, source):
    part = part_of(settings, "2.parquet")
    column = pq.ParquetFile(part.url).metadata.row_group(0).column(0)
    flip(Path(part.url), column.data_page_offset + column.total_compressed_size - 5)
    with pytest.raises(ValueError, match="CRC checksum verification failed"):
        read_ids(part.url)


def commit_part(table, n, shard, ids=None, **told):
    """Put a part of some codes into what readers see, told of as the table would, or falsely."""
    ids = np.arange(5000, 5000 + n) if ids is None else np.asarray(ids)
    data = _parquet_bytes(_table(ids, np.zeros((n, 2), np.uint8), None, 16))
    url = f"{table.folder}/data/{hashlib.sha256(data).hexdigest()}.parquet"
    filesystem.write_bytes(url, data)
    part = Part(url, shard, "x", n, len(data), int(ids.min()), int(ids.max()))._replace(**told)
    base = table.version()
    table.stage("staged-hand", base.snapshot_id)
    table.replace("staged-hand", [part], set(), base.properties)
    table.publish(table.version("staged-hand"), base.snapshot_id)
    return part


def test_rows_ranges_and_ids_are_those_the_table_tells(settings, source):
    table = table_of(settings)
    part = commit_part(table, 5, "false.parquet", rows=6, min_id=4999)
    twice = commit_part(table, 4, "twice.parquet", ids=[5002, 5003, 5003, 9000])
    assert verify.verify(TABLE).problems == (
        f"expected 6 rows, found 5, in {part.url}",
        f"expected ids from 4999 to 5004, found 5000 to 5004, in {part.url}",
        f"expected unique ids, found 1 more than once (5003), in {twice.url}",
        "expected unique ids, found 2 in two shards: 5002 in false.parquet and twice.parquet, "
        "5003 in false.parquet and twice.parquet",
    )


def test_deep_finds_wrong_bits_lost_rows_and_changed_content_and_excuses_what_is_at_the_threshold(settings, source):
    model = models.load_model(settings.warehouse_url, table_of(settings).version().properties["model"])
    batch = blobs(200, D, seed=0)
    packed = pack(model.encode(batch.x))
    values = np.abs(model.project(batch.x)) / np.abs(model.project(batch.x)).mean(axis=0)
    row, bit = np.unravel_index(values.argmin(), values.shape)  # the value nearest to its threshold
    replaced(settings, "0.parquet", batch.ids, flipped(packed, [(row, bit)]))
    nearest = values[row, bit] < 1e-4
    found = verify.verify(TABLE, deep=True)
    assert (found.near, len(found.problems)) == ((1, 0) if nearest else (0, 1))
    far = np.argwhere(values > 0.01)[:3]
    part = replaced(settings, "0.parquet", batch.ids, flipped(packed, far))
    (problem,) = verify.verify(TABLE, deep=True).problems
    assert problem == f"3 of 3200 bits in {part.url} differ from the encoding of {source / '0.parquet'}"
    part = replaced(settings, "0.parquet", batch.ids[:-1], packed[:-1])
    (problem,) = verify.verify(TABLE, deep=True).problems
    assert problem == f"the ids in {part.url} differ from those of {source / '0.parquet'} from row 0 on"
    replaced(settings, "0.parquet", batch.ids, packed, {"hashkiln.source_sha256": "0" * 64})
    (problem,) = verify.verify(TABLE, deep=True).problems
    assert problem.startswith("expected content of SHA-256 000")
    write(source, "0.parquet", blobs(10, D))
    found = verify.verify(TABLE, deep=True)
    assert (found.rechecked, found.problems) == (3, ())
    assert found.notes == ("1 of 4 source shards have changed or were removed, and were not compared",)


def flipped(packed, places):
    packed = packed.copy()
    for row, bit in places:
        packed[row, bit // 8] ^= 1 << (bit % 8)
    return packed


def replaced(settings, shard, ids, packed, about=None):
    """Another part in the place of a shard's, as if it had been encoded so."""
    table = table_of(settings)
    old = part_of(settings, shard)
    rows = _table(ids, np.ascontiguousarray(packed), None, 16)
    data = _parquet_bytes(rows.replace_schema_metadata(about) if about else rows)
    url = f"{table.folder}/data/{hashlib.sha256(data).hexdigest()}.parquet"
    filesystem.write_bytes(url, data)
    part = old._replace(url=url, rows=len(ids), size=len(data), max_id=int(ids.max()))
    base = table.version()
    table.stage("staged-hand", base.snapshot_id)
    table.replace("staged-hand", [part], set(), base.properties)
    table.publish(table.version("staged-hand"), base.snapshot_id)
    return part


def test_a_damaged_part_is_mended_by_encoding_its_shard_again(settings, source):
    part = part_of(settings, "2.parquet")
    flip(Path(part.url), 600)
    _verified.clear()
    assert len(verify.verify(TABLE).problems) == 1
    assert hashkiln("verify", TABLE, "--mend")[0] == 0
    assert verify.verify(TABLE, deep=True).problems == ()
    flip(Path(part.url), 600)
    write(source, "2.parquet", blobs(10, D, first_id=2000))
    assert len(verify.verify(TABLE, mend=True).problems) == 1  # what it was made of is no more


def test_models_and_queries_go_when_nothing_names_them(settings, source):
    other = spec(refit="always", method={"method": "lsh", "bits": 16, "seed": 3})
    orphan = fitting.fit(Context.of(other, settings, InProcess())).digest  # fitted, never staged
    used = table_of(settings).version().properties["model"]
    drawn = queries.current_queries(settings.warehouse_url, "mine")
    ids = queries.load_queries(settings.warehouse_url, "mine").ids
    assert queries.remove_queries(settings.warehouse_url, "mine", ids[:1]) == 1
    assert [i for i in gc.gc(grace=7).items if i.kind in ("model", "queries")] == []
    would = gc.gc(grace=7, dry_run=True, clock=in_days(8))
    found = gc.gc(grace=7, clock=in_days(8))
    assert {item.name for item in would.items} == {item.name for item in found.items}
    gone = {item.name for item in found.items if item.kind in ("model", "queries")}
    assert drawn in gone
    assert {name.rsplit("/", 2)[-2] for name in gone} == {"mine", "fits", orphan}
    assert models.load_model(settings.warehouse_url, used).n_bits == 16
    fitted = fitting.fit(Context.of(other, settings, InProcess())).digest  # nothing remembers a model that is not there
    assert models.load_model(settings.warehouse_url, fitted).n_bits == 16
    assert verify.verify(TABLE, deep=True).problems == ()


def test_what_nobody_used_goes_and_is_made_again_when_it_is_wanted(settings, source):
    near = spec(code="near", protocol={"queries": 30, "relevance": "neighbours", "neighbours": 5})
    reindex(settings, near)
    warehouse = settings.home / "warehouse"
    old = {file for folder in ("kept", "truth") for file in (warehouse / folder).iterdir()}
    for file in old:
        os.utime(file, (time.time() - 30 * DAY,) * 2)
    write(source, "1.parquet", blobs(150, D, seed=9, first_id=1000))
    assert reindex(settings, near) == "v2"
    unused = {file for file in old if file.stat().st_mtime < time.time() - DAY}
    assert {file.parent.name for file in unused} == {"kept", "truth"}
    assert {file.parent.name for file in old - unused} == {"kept"}  # what counts were brought up to date from
    would = gc.gc(grace=7, dry_run=True)
    found = gc.gc(grace=7)
    assert found.items == would.items
    assert {(item.kind, item.name) for item in found.items if not item.table} == {
        (file.parent.name, str(file)) for file in unused
    }
    table = table_of(settings, "mine__near")
    of = (Context.of(near, settings, InProcess()), table, table.version(), table.version("v1"))
    before = version.measure_version(*of)
    gc.gc(grace=7, clock=in_days(8))
    assert not [file for folder in ("kept", "truth") for file in (warehouse / folder).iterdir()]
    assert version.measure_version(*of) == before


def test_nothing_is_left_beside_tables_on_s3_and_postgresql(s3, postgresql, tmp_path, monkeypatch):
    monkeypatch.setenv("HASHKILN_WAREHOUSE", f"{s3}/{tmp_path.name}")
    monkeypatch.setenv("HASHKILN_CATALOG", postgresql())
    settings = one_table.embedded(tmp_path, monkeypatch)
    one_table.published(settings, tmp_path / "source")
    lists = filesystem.join(settings.training_url, "0" * 16, "checkpoint", "state.pt")
    filesystem.write_bytes(lists, b"of a run that nobody ends")
    parts, before = rows_of(settings), filesystem.inventory(settings.warehouse_url)
    assert {item.kind for item in gc.gc(grace=7, dry_run=True).items} <= {"snapshot"}
    gone = {item.name for item in gc.gc(grace=7, clock=in_days(8)).items if not item.table}
    assert {name.split("/")[4] for name in gone} == {"kept", "training"}
    assert gone < {file.url for file in before}
    assert not gone & {file.url for file in filesystem.inventory(settings.warehouse_url)}
    assert rows_of(settings) == parts
    assert verify.verify(TABLE, deep=True).problems == ()


def test_models_stay_where_the_warehouse_has_tables_that_the_catalog_does_not_know(settings, source, monkeypatch):
    monkeypatch.setenv("HASHKILN_CATALOG", f"sqlite:///{settings.home / 'other.db'}")
    found = gc.gc(grace=7, clock=in_days(8))
    assert {item.kind for item in found.items} == {"kept"}
    (note,) = found.notes
    assert note.startswith("kept all models, pretrained parameters")
    assert "mine__code" in note


def test_a_short_grace_must_be_forced_and_durations_are_read(settings, source):
    with pytest.raises(ValueError, match=r"expected a grace of at least one hour, found 0\.5 hours: pass --force"):
        gc.gc(grace=0.5 / 24)
    assert hashkiln("gc", "--grace", "1m", "--force", "--dry-run")[0] == 0
    code, output = hashkiln("gc", TABLE, "--grace", "1h")
    assert (code, output) == (0, "Deleted: snapshot: 3; 0 bytes\n")
    assert hashkiln("gc", TABLE, "--grace", "soon")[0] == 2
    assert [duration(text) for text in ("90m", "36h", "7d")] == [0.0625, 1.5, 7]
