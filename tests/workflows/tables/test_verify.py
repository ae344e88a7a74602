"""Verification finds damage in a published table, and repairs it."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hashing.bits import pack
from storage import models
from storage.files import filesystem
from storage.tables.parts import Part, _parquet_bytes, _table, _verified, read_ids
from tests.conftest import blobs
from tests.workflows.tables import published_table
from tests.workflows.tables.published_table import (
    TABLE,
    D,
    hashkiln,
    part_of,
    rows_of,
    table_of,
    write,
)
from workflows import opening
from workflows.tables import verify

settings, source = published_table.settings, published_table.source  # fixtures


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
def test_a_damaged_part_is_detected_and_never_read(settings, source, harm, message):
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
        opening.open(TABLE).search(np.zeros((1, D), np.float32))


def test_a_flipped_bit_of_an_id_is_detected_when_only_ids_are_read(settings, source):
    part = part_of(settings, "2.parquet")
    column = pq.ParquetFile(part.url).metadata.row_group(0).column(0)
    flip(Path(part.url), column.data_page_offset + column.total_compressed_size - 5)
    with pytest.raises(ValueError, match="CRC checksum verification failed"):
        read_ids(part.url)


def commit_part(table, n, shard, ids=None, **told):
    """Publish a part of given codes, with correct or false metadata."""
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


def test_rows_ranges_and_ids_match_the_table_metadata(settings, source):
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


def test_deep_finds_wrong_bits_lost_rows_and_changed_content_but_allows_bits_at_the_threshold(settings, source):
    model = models.load_model(settings.warehouse_url, table_of(settings).version().properties["model"])
    batch = blobs(200, D, seed=0)
    packed = pack(model.encode(batch.x))
    values = np.abs(model.project(batch.x)) / np.abs(model.project(batch.x)).mean(axis=0)
    row, bit = np.unravel_index(values.argmin(), values.shape)  # the value nearest to its threshold
    replaced(settings, "0.parquet", batch.ids, flipped(packed, [(row, bit)]))
    nearest = model.undetermined(batch.x)[row, bit]
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
    assert problem.startswith("expected content of digest 000")
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
    """Replace the part of a shard by another, as if it had been encoded so."""
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


def test_a_damaged_part_is_repaired_by_encoding_its_shard_again(settings, source):
    part = part_of(settings, "2.parquet")
    flip(Path(part.url), 600)
    _verified.clear()
    assert len(verify.verify(TABLE).problems) == 1
    assert hashkiln("verify", TABLE, "--repair")[0] == 0
    assert verify.verify(TABLE, deep=True).problems == ()
    flip(Path(part.url), 600)
    write(source, "2.parquet", blobs(10, D, first_id=2000))
    assert len(verify.verify(TABLE, repair=True).problems) == 1  # its source is gone
