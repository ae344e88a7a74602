"""Parts of codes, on every filesystem."""

import base64
import hashlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import blobs

from hashing.bits import pack
from hashing.functions import LinearHash
from storage.features import dataset
from storage.features.shard import Columns, FeatureShard, SourceChanged, WithoutRows
from storage.files import filesystem, parquet
from storage.files.filesystem import join
from storage.formats import FeatureRows
from storage.tables import parts

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


def test_the_moments_of_projections_are_noted_in_the_footer(folder):
    batch, model = blobs(3000, D), function(12)
    part = parts.encode_shard(shard(folder, batch), model, join(folder, "data"))
    u = model.project(batch.x)
    noted = parts.read_moments(part.url)
    sums = u.sum(0, np.float64), (u.astype(np.float64) ** 2).sum(0)
    np.testing.assert_allclose(noted, [np.full(12, 3000), (u >= 0).sum(0), *sums], rtol=1e-12, atol=1e-9)
    rest = parts.without_rows(part, np.arange(7), join(folder, "data"), "2", 12)
    assert parts.read_moments(rest.url) is None  # of the rows that are left nothing is known


@pytest.mark.parametrize("noted", [b"AAAA", base64.b64encode(bytes(8 * 6)), b"#" + base64.b64encode(bytes(8 * 4))])
def test_moments_that_are_damaged_are_told_of_in_a_line(tmp_path, noted):
    table = pa.table({"id": np.arange(3)}).replace_schema_metadata({"hashkiln.moments": noted})
    pq.write_table(table, tmp_path / "part.parquet")
    line = rf"^damaged footer, moments of projections, in {tmp_path}/part.parquet: .*$"
    with pytest.raises(ValueError, match=line):
        parts.read_moments(str(tmp_path / "part.parquet"))


def test_the_bit_column_is_stored_as_it_is(tmp_path):
    part = parts.encode_shard(shard(str(tmp_path), blobs(5000, D)), function(32), str(tmp_path))
    file = pq.ParquetFile(part.url)
    column = file.metadata.row_group(0).column(1)
    assert str(file.schema.column(1).physical_type) == "FIXED_LEN_BYTE_ARRAY"
    assert file.schema.column(1).max_definition_level == 0  # required
    assert (column.compression, set(column.encodings)) == ("UNCOMPRESSED", {"PLAIN", "RLE"})
    assert column.statistics is None
    assert column.total_compressed_size < 5000 * 4 + 100
    assert file.metadata.row_group(0).column(0).statistics.min == 0
    assert set(file.schema_arrow.metadata) >= {b"hashkiln.source_sha256"}


def test_labels_travel_as_places_in_the_vocabulary(folder):
    batch = blobs(500, D)
    part = parts.encode_shard(shard(folder, batch, labels=True), function(8), join(folder, "data"))
    (read,) = parts.CodeShard(part, 8, n_classes=7)
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


def test_rows_common_to_two_versions_are_found_by_id(tmp_path):
    a = parts.encode_shard(shard(str(tmp_path / "a"), blobs(100, D)), function(8), str(tmp_path / "data"))
    b = parts.encode_shard(shard(str(tmp_path / "b"), blobs(100, D, first_id=60)), function(8), str(tmp_path / "data"))
    (common,) = parts.CommonRows(parts.CodeShard(a, 8), (b,))
    assert common.ids.tolist() == list(range(60, 100))
    (none,) = parts.CommonRows(parts.CodeShard(a, 8), ())
    assert not len(none.ids)


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


def test_what_is_no_parquet_is_refused(tmp_path):
    (tmp_path / "bad.parquet").write_bytes(b"nothing of the kind")
    entry = filesystem.stat(str(tmp_path / "bad.parquet"))
    with pytest.raises(ValueError, match=r"bad\.parquet is not a Parquet file: "):
        parts.encode_shard(FeatureShard(entry.url, "x", entry.version, 2, Columns()), function(8, 2), str(tmp_path))


def test_a_footer_with_any_byte_changed_is_read_or_refused_in_one_line(tmp_path):
    source = write_parquet(tmp_path / "s.parquet", pa.table({"id": [1, 2], "vector": [[1.0, 2.0]] * 2}))
    path, refused = tmp_path / "s.parquet", []
    content = path.read_bytes()
    for place in range(len(content) - 8 - int.from_bytes(content[-8:-4], "little"), len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        try:
            parquet.open_parquet(source.url)
        except ValueError as error:
            refused.append(str(error))
    line = re.compile(rf"{re.escape(source.url)} is not a Parquet file: [^\n]*")
    assert len(refused) > 100
    assert all(line.fullmatch(message) for message in refused)


def test_labels_outside_the_vocabulary_are_refused(tmp_path):
    table = pa.table({"id": [1], "vector": [[1.0, 2.0]], "labels": [["cat"]]})
    source = write_parquet(tmp_path / "l.parquet", table)
    source = FeatureShard(source.url, source.name, source.version, 2, source.columns, ("dog",))
    assert source.distinct_labels() == {"cat"}
    with pytest.raises(ValueError, match="expected labels of the table's vocabulary, found 'cat', in"):
        list(source)


@pytest.mark.parametrize("kind", [pa.list_(pa.float64()), pa.list_(pa.float32(), 2), pa.list_(pa.uint8(), 2)])
def test_any_numbers_serve_as_vectors_and_sliced_batches_too(tmp_path, kind):
    n = 20_001
    x = np.arange(2 * n).reshape(n, 2) % 251
    vectors = pa.array(x.tolist(), kind)
    source = write_parquet(tmp_path / "v.parquet", pa.table({"id": np.arange(n), "vector": vectors}))
    batches = list(source)
    np.testing.assert_array_equal(np.concatenate([batch.x for batch in batches]), x)
    assert {batch.x.dtype for batch in batches} == {np.dtype(np.float32)}
    assert source.rows == n
    rest = np.concatenate([batch.ids for batch in WithoutRows(source, np.array([0, 5, 20_000]))])
    np.testing.assert_array_equal(rest, np.setdiff1d(np.arange(n), [0, 5, 20_000]))


def test_splits_are_cut_into_shards_of_a_size(tmp_path):
    batch = blobs(1050, D)
    blocks = [rows(batch.take(slice(i, i + 77))) for i in range(0, 1050, 77)]
    found = dataset.write_split(str(tmp_path), blocks, rows_per_shard=250)
    assert (found.kind, found.dim, found.labelled, found.rows) == ("vector", D, False, 1050)
    entries = filesystem.listing(str(tmp_path), ".parquet")
    assert [pq.read_metadata(entry.url).num_rows for entry in entries] == [250, 250, 250, 250, 50]
    np.testing.assert_array_equal(np.concatenate([pq.read_table(e.url)["id"].to_numpy() for e in entries]), batch.ids)


def test_splits_refuse_what_is_not_finite_and_what_is_not_there(tmp_path):
    batch = blobs(10, D)
    batch.x[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"cannot write row 3 to .*: expected finite numbers, found NaN or infinity"):
        dataset.write_split(str(tmp_path), [rows(batch)])
    with pytest.raises(ValueError, match=r"expected rows to write to .*, found none"):
        dataset.write_split(str(tmp_path), [])
    with pytest.raises(ValueError, match="expected rows like those before"):
        dataset.write_split(str(tmp_path), [rows(blobs(4, D)), rows(blobs(4, D + 1))], rows_per_shard=4)
