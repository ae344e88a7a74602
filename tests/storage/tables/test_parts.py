"""Parts of codes, on every filesystem."""

import base64
import hashlib
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hashing.bits import pack
from hashing.families import LinearHash
from storage.features import dataset
from storage.features import shard as shards
from storage.features.shard import Columns, FeatureShard, SourceChanged
from storage.files import filesystem
from storage.files.filesystem import join
from storage.formats import FeatureRows
from storage.tables import joined, parts
from tests.conftest import blobs

D = 16


def function(n_bits, d=D):
    rng = np.random.default_rng(n_bits)
    return LinearHash(rng.standard_normal((d, n_bits)), rng.standard_normal(n_bits))


def rows(batch, labels=False):
    lists = [[int(c)] for c in batch.y.argmax(1)] if labels else None
    return FeatureRows(batch.ids, batch.x, lists)


def shard(folder, batch, name="00000.parquet", labels=False):
    dataset.write_split(join(folder, "base"), [rows(batch, labels)])
    entry = filesystem.stat(join(folder, "base", name))
    columns = Columns(labels="labels" if labels else None)
    return FeatureShard(entry.url, name, entry.version, D, columns, tuple(range(6)) if labels else ())


def write_parquet(path, table):
    pq.write_table(table, path)
    entry = filesystem.stat(str(path))
    return FeatureShard(entry.url, path.name, entry.version, 2, Columns(labels="labels"))


@pytest.mark.parametrize("n_bits", [1, 8, 12, 64])
def test_a_part_holds_the_codes_of_its_shard(folder, n_bits):
    batch = blobs(3000, D)
    part = parts.encode_shard(shard(folder, batch), function(n_bits), join(folder, "data"))
    assert (part.shard, part.rows, part.min_id, part.max_id) == ("00000.parquet", 3000, 0, 2999)
    content = filesystem.read_bytes(part.url)
    assert part.url.endswith(hashlib.sha256(content).hexdigest() + ".parquet")
    assert part.size == len(content)
    (read,) = parts.CodeShard(part, n_bits)
    np.testing.assert_array_equal(read.ids, batch.ids)
    np.testing.assert_array_equal(read.x, pack(function(n_bits).encode(batch.x)))
    assert read.y is None
    np.testing.assert_array_equal(parts.read_ids(part.url), batch.ids)


def test_the_moments_of_projections_are_in_the_footer(folder):
    batch, model = blobs(3000, D), function(12)
    part = parts.encode_shard(shard(folder, batch), model, join(folder, "data"))
    u = model.project(batch.x)
    encoded = parts.read_moments(part.url)
    sums = u.sum(0, np.float64), (u.astype(np.float64) ** 2).sum(0)
    np.testing.assert_allclose(encoded, [np.full(12, 3000), (u >= 0).sum(0), *sums], rtol=1e-12, atol=1e-9)
    rest = parts.without_rows(part, np.arange(7), join(folder, "data"), "2", 12)
    assert parts.read_moments(rest.url) is None  # the moments of the remaining rows are unknown


@pytest.mark.parametrize("encoded", [b"AAAA", base64.b64encode(bytes(8 * 6)), b"#" + base64.b64encode(bytes(8 * 4))])
def test_damaged_moments_are_refused_in_one_line(tmp_path, encoded):
    table = pa.table({"id": np.arange(3)}).replace_schema_metadata({"hashkiln.moments": encoded})
    pq.write_table(table, tmp_path / "part.parquet")
    line = rf"^damaged footer, moments of projections, in {tmp_path}/part.parquet: .*$"
    with pytest.raises(ValueError, match=line):
        parts.read_moments(str(tmp_path / "part.parquet"))


def test_the_bit_column_is_stored_uncompressed(tmp_path):
    part = parts.encode_shard(shard(str(tmp_path), blobs(5000, D)), function(32), str(tmp_path))
    file = pq.ParquetFile(part.url)
    column = file.metadata.row_group(0).column(1)
    assert str(file.schema.column(1).physical_type) == "FIXED_LEN_BYTE_ARRAY"
    assert file.schema.column(1).max_definition_level == 0  # required
    assert (column.compression, set(column.encodings)) == ("UNCOMPRESSED", {"PLAIN", "RLE"})
    assert column.statistics is None
    assert column.total_compressed_size < 5000 * 4 + 100
    assert file.metadata.row_group(0).column(0).statistics.min == 0
    assert set(file.schema_arrow.metadata) >= {b"hashkiln.source_lanes"}


def test_the_memory_to_encode_does_not_grow_with_the_row_group(tmp_path, monkeypatch):
    """Of a file of 128 MB in one row group, a few blocks are in memory, as arrays or in Arrow's pool."""
    n, dim, block = 250_000, 128, 8192
    monkeypatch.setattr(shards, "batch_rows", lambda _: block)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(n * dim, np.float32)), dim)
    path = tmp_path / "0.parquet"
    pq.write_table(pa.table({"id": np.arange(n), "vector": vectors}), path, compression="none", use_dictionary=["id"])
    del vectors
    entry = filesystem.stat(str(path))
    pool = pa.default_memory_pool()
    source = FeatureShard(entry.url, "0", entry.version, dim, Columns())
    parts.encode_shard(source, function(64, dim), str(tmp_path / "warm"))
    held, most = pool.bytes_allocated(), 0
    read = FeatureShard.read_blocks

    def observed(self):
        nonlocal most
        for rows in read(self):
            most = max(most, pool.bytes_allocated() - held)
            yield rows

    monkeypatch.setattr(FeatureShard, "read_blocks", observed)
    tracemalloc.start()
    try:
        parts.encode_shard(source, function(64, dim), str(tmp_path / "data"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # three blocks of 4 MB, the window of 4 MB, and the result with its copies
    assert most < 10e6


def test_labels_are_stored_as_indices_in_the_vocabulary(folder):
    batch = blobs(500, D)
    part = parts.encode_shard(shard(folder, batch, labels=True), function(8), join(folder, "data"))
    (read,) = parts.CodeShard(part, 8, classes=range(7))
    np.testing.assert_array_equal(read.y[:, :6], batch.y)
    assert not read.y[:, 6].any()


def test_two_attempts_at_a_shard_give_one_file(tmp_path):
    source = shard(str(tmp_path), blobs(100, D))
    first = parts.encode_shard(source, function(8), str(tmp_path / "data"))
    assert parts.encode_shard(source, function(8), str(tmp_path / "data")) == first
    assert len(list((tmp_path / "data").iterdir())) == 1


def test_a_part_of_another_width_is_refused(tmp_path):
    part = parts.encode_shard(shard(str(tmp_path), blobs(100, D)), function(8), str(tmp_path))
    with pytest.raises(ValueError, match=r"expected codes of 2 bytes \(16 bits\), found fixed_size_binary\[1\]"):
        list(parts.CodeShard(part, 16))


def test_common_rows_of_two_versions_are_found_by_id(tmp_path):
    a = parts.encode_shard(shard(str(tmp_path / "a"), blobs(100, D)), function(8), str(tmp_path / "data"))
    b = parts.encode_shard(shard(str(tmp_path / "b"), blobs(100, D, first_id=60)), function(8), str(tmp_path / "data"))
    (common,) = parts.CommonRows(parts.CodeShard(a, 8), (b,))
    assert common.ids.tolist() == list(range(60, 100))
    (none,) = parts.CommonRows(parts.CodeShard(a, 8), ())
    assert not len(none.ids)


def test_consecutive_small_parts_are_read_together(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "BATCH_ROWS", 10)
    single = [
        parts.CodeShard(parts.encode_shard(shard(str(tmp_path / str(n)), blobs(n, D)), function(8), str(tmp_path)), 8)
        for n in (4, 6, 1, 12, 3)
    ]
    together = joined.joined(single)
    assert [[len(batch.ids) for batch in found] for found in together] == [[10], [1], [10, 2], [3]]
    for field in ("ids", "x"):
        found, expected = (np.concatenate([getattr(b, field) for s in of for b in s]) for of in (together, single))
        np.testing.assert_array_equal(found, expected)
    assert joined.joined([]) == []


def test_a_shard_that_changed_since_it_was_listed_is_refused(folder):
    source = shard(folder, blobs(100, D))
    shard(folder, blobs(101, D))
    with pytest.raises(SourceChanged, match=r"00000\.parquet changed after it was listed: from .* to "):
        parts.encode_shard(source, function(8), join(folder, "data"))
    filesystem.remove(source.url)
    with pytest.raises(SourceChanged, match=r"00000\.parquet was removed after it was listed"):
        parts.encode_shard(source, function(8), join(folder, "data"))
    with pytest.raises(FileNotFoundError):
        filesystem.listing(join(folder, "data"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": [1, None], "vector": [[1.0, 2.0]] * 2}, "expected an id in every row, found null in row 1 of"),
        ({"id": [1, 2], "vector": [[1.0, 2.0], [1.0]]}, "expected vectors of dimension 2, found 1, in row 1 of"),
        ({"id": [1, 2], "vector": [[1.0, 2.0], [1.0, float("nan")]]}, "found NaN or infinity, in row 1 of"),
        ({"id": [1, 2], "vector": [[1.0, float("inf")], [1.0, 2.0]]}, "found NaN or infinity, in row 0 of"),
        ({"id": [1, 2], "vector": [[1.0, 2.0], None]}, "expected 2 finite numbers, found null, in row 1 of"),
        (
            {"id": [1, 2], "vector": [[1.0, None], [1.0, 2.0]]},
            "expected 2 finite numbers, found null among them, in row 0 of",
        ),
        ({"id": [7, 7], "vector": [[1.0, 2.0]] * 2}, r"expected unique ids, found 1 more than once \(7\), in"),
        ({"id": ["a", "b"], "vector": [[1.0, 2.0]] * 2}, "expected integer ids, found string, in"),
        ({"id": [1, 2], "vector": ["x", "y"]}, "expected vectors, lists of .*, found string, in"),
        ({"id": [1, 2]}, "expected the columns vector, found id, in"),
    ],
)
def test_bad_rows_are_refused_with_their_place(tmp_path, table, message):
    source = write_parquet(tmp_path / "bad.parquet", pa.table(table))
    with pytest.raises(ValueError, match=message + r".*bad\.parquet"):
        parts.encode_shard(source, function(8, 2), str(tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_row_that_cannot_be_encoded_is_refused_with_its_place(tmp_path):
    far = pa.table({"id": [5, 6], "vector": [[1.0, 2.0], [3e38, 3e38]]})
    with pytest.raises(ValueError, match=r"bad\.parquet, rows from id 5 on: row 1: values up to 3e\+38 overflow"):
        parts.encode_shard(write_parquet(tmp_path / "bad.parquet", far), function(8, 2), str(tmp_path / "data"))


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"nothing of the kind")
    entry = filesystem.stat(str(tmp_path / "bad.parquet"))
    with pytest.raises(ValueError, match=r"bad\.parquet is not a Parquet file: "):
        parts.encode_shard(FeatureShard(entry.url, "x", entry.version, 2, Columns()), function(8, 2), str(tmp_path))
