"""Modified parts are noticed on read, on every filesystem; parts without deleted rows."""

import hashlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from hashing.families import LinearHash
from storage.features import dataset
from storage.features.shard import Columns, FeatureShard
from storage.files import filesystem
from storage.files.filesystem import join
from storage.formats import FeatureRows
from storage.tables import integrity
from storage.tables.parts import CodeShard, _verified, encode_shard, read_part, without_rows
from storage.tables.source_digest import SOURCE_DIGESTS
from tests.conftest import blobs

D, N_BITS = 8, 16
FUNCTION = LinearHash(np.random.default_rng(0).standard_normal((D, N_BITS)), np.zeros(N_BITS))


@pytest.fixture
def part(folder):
    batch = blobs(300, D)
    dataset.write_split(join(folder, "base"), [FeatureRows(batch.ids, batch.x, None)])
    (entry,) = filesystem.listing(join(folder, "base"), ".parquet")
    return encode_shard(FeatureShard(entry.url, "0", entry.version, D, Columns()), FUNCTION, join(folder, "data"))


def ids_of(part):
    return np.concatenate([batch.ids for batch in CodeShard(part, N_BITS)])


def test_a_modified_part_is_refused_on_the_first_read_of_a_process_and_a_truncated_one_on_every_read(part):
    assert len(ids_of(part)) == 300
    content = bytearray(filesystem.read_bytes(part.url))
    content[500] ^= 1
    filesystem.write_bytes(part.url, bytes(content))
    ids_of(part)  # this process has checked its digest before
    with pytest.raises(ValueError, match=f"expected a part of SHA-256 .*, found {hashlib.sha256(content).hexdigest()}"):
        read_part(part.url, N_BITS, part.size, verify=True)
    _verified.clear()
    with pytest.raises(ValueError, match="the file was modified"):
        ids_of(part)
    assert [problem.partition(",")[0] for problem in integrity.check_part(part, N_BITS)] == [
        f"expected a part of SHA-256 {part.url.rpartition('/')[2].partition('.')[0]}"
    ]
    filesystem.write_bytes(part.url, bytes(content[:-9]))
    with pytest.raises(ValueError, match=f"expected a part of {part.size} bytes, found {part.size - 9}, in"):
        ids_of(part)


def test_a_part_without_some_rows_has_the_codes_of_the_others(part):
    rest = without_rows(part, np.array([0, 7, 299, 5000]), part.url.rpartition("/")[0], "v~1", N_BITS)
    assert (rest.shard, rest.version, rest.rows, rest.min_id, rest.max_id) == ("0", "v~1", 297, 1, 298)
    (old,), (new,) = (list(CodeShard(one, N_BITS)) for one in (part, rest))
    kept = ~np.isin(old.ids, [0, 7, 299])
    np.testing.assert_array_equal(new.ids, old.ids[kept])
    np.testing.assert_array_equal(new.x, old.x[kept])
    assert integrity.check_part(rest, N_BITS) == []
    assert without_rows(part, np.array([5000]), "nowhere", "x", N_BITS) is None
    none = [
        without_rows(part._replace(shard=shard), old.ids, part.url.rpartition("/")[0], "x", N_BITS) for shard in "ab"
    ]
    assert [one.rows for one in none] == [0, 0]
    assert none[0].url != none[1].url
    assert "://" in none[0].url or pq.read_metadata(none[0].url).num_rows == 0
    assert integrity.check_part(none[0], N_BITS) == []


@pytest.mark.parametrize("format", SOURCE_DIGESTS)
def test_a_lost_part_of_any_format_is_restored_and_compared(folder, format):
    batch = blobs(300, D)
    dataset.write_split(join(folder, "base"), [FeatureRows(batch.ids, batch.x, None)])
    (entry,) = filesystem.listing(join(folder, "base"), ".parquet")
    shard = FeatureShard(entry.url, "0", entry.version, D, Columns())
    part = encode_shard(shard, FUNCTION, join(folder, "data"), format)
    content = filesystem.read_bytes(part.url)
    if format == "1":
        digest = hashlib.sha256(batch.ids.tobytes() + batch.x.tobytes()).hexdigest()
        assert b"hashkiln.source_sha256" in content
        assert digest.encode() in content
    assert integrity.compare_with_source((part, shard), FUNCTION) == ([], 300 * N_BITS, 0)
    filesystem.remove(part.url)
    integrity.restore_part((part, shard), FUNCTION, join(folder, "data"))
    assert filesystem.read_bytes(part.url) == content
