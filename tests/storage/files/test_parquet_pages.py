"""Vectors decoded from Parquet pages: equal to pyarrow bit for bit, or refused, whoever wrote the file."""

import base64
import contextlib
import itertools
import threading
from collections import Counter

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from storage.files import parquet_kernels
from storage.files.parquet_pages import Unsupported, VectorReader
from storage.files.parquet_random import PageReader

DTYPES = ["float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16"]
CODECS = ["none", "snappy", "gzip", "zstd", "lz4", "brotli"]


def vectors(rng, dtype, rows, dim):
    """Random vectors: all values different, few different ones, or one, with NaN and infinity among them."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        x = rng.standard_normal((rows, dim)).astype(dtype)
        x[rng.random(x.shape) < 0.01] = rng.choice([np.nan, np.inf, -np.inf, -0.0])
    else:
        bounds = np.iinfo(dtype)
        x = rng.integers(bounds.min, bounds.max, (rows, dim), dtype, endpoint=True)
    if (distinct := rng.choice([0, 1, 2, 5, 200])) and x.size:
        x = rng.choice(x.reshape(-1), distinct)[rng.integers(0, distinct, x.shape)]
    return x


def lists(rng, x):
    """Vectors as an Arrow array of one of the three kinds of lists."""
    offsets = np.arange(0, x.size + 1, x.shape[1])
    kind = rng.choice(["list", "large_list", "fixed_size_list"])
    item = pa.field(rng.choice(["item", "element", "array"]), pa.from_numpy_dtype(x.dtype), bool(rng.integers(2)))
    values = pa.array(x.reshape(-1), item.type)
    if kind == "list":
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, pa.list_(item))
    if kind == "large_list":
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values, pa.large_list(item))
    return pa.FixedSizeListArray.from_arrays(values, type=pa.list_(item, x.shape[1]))


def by_pyarrow(rng, path, x):
    column = lists(rng, x)
    schema = pa.schema([pa.field("id", pa.int64()), pa.field("v", column.type, nullable=bool(rng.integers(2)))])
    split = column.type.value_type.bit_width >= 16 and rng.random() < 0.3
    pq.write_table(
        pa.table([np.arange(len(x)), column], schema=schema),
        path,
        row_group_size=int(rng.integers(1, len(x) + 2)),
        version=rng.choice(["1.0", "2.4", "2.6"]),
        data_page_version=rng.choice(["1.0", "2.0"]),
        data_page_size=int(rng.choice([64, 1000, 10_000, 2**20])),
        write_batch_size=int(rng.choice([10, 1024])),
        dictionary_pagesize_limit=int(rng.choice([100, 2**20])),
        compression=rng.choice(CODECS),
        use_dictionary=bool(rng.integers(2)) and not split,
        use_byte_stream_split=split and x.dtype != np.uint16 and x.dtype != np.int16,
        write_statistics=bool(rng.integers(2)),
        store_schema=bool(rng.integers(2)),
        use_compliant_nested_type=bool(rng.integers(2)),
        write_page_index=bool(rng.integers(2)),
        write_page_checksum=bool(rng.integers(2)),
    )


def by_spark_settings(rng, path, x):
    """Snappy pages of version 1 with checksums, and the names that Spark and Hive give to elements."""
    item = pa.field(rng.choice(["element", "array"]), pa.from_numpy_dtype(x.dtype))
    column = pa.array(list(x), pa.list_(item))
    pq.write_table(
        pa.table({"id": np.arange(len(x)), "v": column}),
        path,
        version="1.0",
        store_schema=False,
        use_compliant_nested_type=bool(rng.integers(2)),
        write_page_checksum=True,
        row_group_size=max(1, len(x) // 2),
    )


def by_pandas(rng, path, x):
    frame = pa.table({"id": np.arange(len(x)), "v": pa.array(list(x), pa.list_(pa.from_numpy_dtype(x.dtype)))})
    frame.to_pandas().to_parquet(path, compression=rng.choice(["snappy", "gzip", "zstd", None]))


def by_polars(rng, path, x):
    kind = pl.Series(np.zeros(1, x.dtype)).dtype
    column = pl.Array(kind, x.shape[1]) if rng.integers(2) else pl.List(kind)
    frame = pl.DataFrame({"id": np.arange(len(x)), "v": x.tolist()}, schema={"id": pl.Int64, "v": column})
    frame.write_parquet(
        path,
        compression=rng.choice(["lz4", "uncompressed", "snappy", "gzip", "brotli", "zstd"]),
        statistics=bool(rng.integers(2)),
        row_group_size=int(rng.integers(1, len(x) + 2)),
        data_page_size=int(rng.choice([1000, 2**20])),
    )


def by_duckdb(rng, path, x):
    table = pa.table({"id": np.arange(len(x)), "v": pa.array(list(x), pa.list_(pa.from_numpy_dtype(x.dtype)))})
    codec, version = (
        rng.choice(["uncompressed", "snappy", "gzip", "zstd", "brotli", "lz4_raw"]),
        rng.choice(["V1", "V2"]),
    )
    with duckdb.connect() as connection:
        connection.register("rows", table)
        connection.execute(f"COPY rows TO '{path}' (FORMAT parquet, COMPRESSION {codec}, PARQUET_VERSION {version})")


WRITERS = {
    by_pyarrow: DTYPES,
    by_spark_settings: ["float32", "float64", "int8", "int16", "int32", "int64"],
    by_pandas: ["float32", "float64", "int8", "int16", "int32", "int64", "uint8"],
    by_polars: ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16"],
    by_duckdb: ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16"],
}
LEAST_READ = {by_duckdb: 0.6}  # its newer format has integers as deltas


def directly(content, dim, rows, pieces=(7,), window=2**22, ahead=0):
    """All rows of column v, read piece by piece."""
    schema, file = pq.ParquetFile(pa.BufferReader(content)).schema, pa.BufferReader(content)
    out = np.empty((rows, dim), np.float32)
    row = 0
    with contextlib.closing(VectorReader(schema, file, "v", dim, window, ahead)) as reader:
        for piece in itertools.cycle(pieces):
            finite = reader.read(part := out[row : row + piece])
            assert finite == np.isfinite(part).all()
            row += piece
            if row >= rows:
                return out


def by_arrow(content):
    """All values of column v, flat, as pyarrow reads them."""
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    values = file.read(["v"])["v"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32)


def bits(x):
    return np.ascontiguousarray(x).reshape(-1).view(np.uint32)


def check_pages(path, dim, rng, expected):
    """Read some pages without the others, and compare."""
    reader = PageReader(str(path), "v", dim)
    assert reader.starts[-1] == expected.size
    pages = np.flatnonzero(rng.random(len(reader.starts) - 1) < rng.choice([0.1, 0.5, 1]))
    for page, values in zip(pages, reader.read_pages(pages.tolist()), strict=True):
        start, stop = reader.starts[page : page + 2]
        np.testing.assert_array_equal(bits(values), bits(expected[start:stop]))


def check_files(path, writer, seeds):
    """Write a random file for each seed, and compare. Returns how many were read directly, and how many refused."""
    counts = Counter()
    for seed in seeds:
        rng = np.random.default_rng(seed)
        dim, dtype = int(rng.choice([1, 2, 3, 7, 8, 9, 31, 128])), rng.choice(WRITERS[writer])
        x = vectors(rng, dtype, int(rng.choice([1, 10, 300])), dim)
        writer(rng, path, x)
        content = path.read_bytes()
        try:
            expected = by_arrow(content)
        except OSError as error:  # some deltas that DuckDB writes
            counts[str(error)] += 1
            continue
        try:
            pieces, window = rng.integers(1, 200, 5), rng.choice([(1, 0), (1000, 0), (1000, 3), (2**22, 0), (2**22, 3)])
            found = directly(content, dim, len(x), pieces, *window.tolist())
        except Unsupported as error:
            counts[str(error)] += 1
            continue
        np.testing.assert_array_equal(bits(found), bits(expected), err_msg=f"seed {seed}")
        check_pages(path, dim, rng, expected)
        counts["read"] += 1
    return counts


@pytest.mark.parametrize("writer", WRITERS)
def test_random_files_of_every_writer_are_equal_to_pyarrow_bit_for_bit(tmp_path, writer):
    counts = check_files(tmp_path / "v.parquet", writer, range(60))
    assert counts["read"] > LEAST_READ.get(writer, 0.95) * counts.total(), counts


@pytest.mark.slow
@pytest.mark.parametrize("writer", WRITERS)
def test_a_thousand_files_of_every_writer_are_equal_to_pyarrow_bit_for_bit(tmp_path, writer):
    counts = check_files(tmp_path / "v.parquet", writer, range(1000, 2000))
    print(writer.__name__, dict(counts))
    assert counts["read"] > LEAST_READ.get(writer, 0.95) * counts.total(), counts


def written(column, **options):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"v": column}), sink, **options)
    return sink.getvalue()


FLOATS = pa.list_(pa.float32())
OTHERS = {
    "a null among the values": pa.array([[1, 2], [3, None]], FLOATS),
    "a null row": pa.array([[1, 2], None], FLOATS),
    "a null row of fixed size": pa.array([[1, 2], None], pa.list_(pa.float32(), 2)),
    "an empty row": pa.array([[1, 2], [], [3, 4]], FLOATS),
    "a longer row": pa.array([[1, 2], [3, 4, 5]], FLOATS),
    "rows of two values on average": pa.array([[1, 2, 3], [4], [5, 6]], FLOATS),
    "rows of two values and nulls on average": pa.array([[1, 2, 3], None, [4, 5], [6, 7]], FLOATS),
    "rows of another fixed size": pa.array([[1, 2, 3]], pa.list_(pa.float32(), 3)),
    "lists of lists": pa.array([[[1, 2]]], pa.list_(FLOATS)),
    "structs": pa.array([{"x": [1, 2]}], pa.struct([("x", FLOATS)])),
    "lists of structs": pa.array([[{"x": 1}, {"x": 2}]], pa.list_(pa.struct([("x", pa.float32())]))),
    "maps": pa.array([[(1, 2)]], pa.map_(pa.int32(), pa.int32())),
    "texts": pa.array([["a", "b"]]),
    "times": pa.array([[1, 2]], pa.list_(pa.timestamp("us"))),
    "numbers without sign": pa.array([[1, 2]], pa.list_(pa.uint64())),
    "numbers": pa.array([1.0, 2.0]),
}


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_other_columns_are_refused(case, version):
    content = written(OTHERS[case], data_page_version=version)
    with pytest.raises(Unsupported):
        directly(content, 2, len(OTHERS[case]))


def test_other_encodings_are_refused():
    column = pa.array([[1, 2], [3, 4]], pa.list_(pa.int32()))
    options = {"use_dictionary": False, "column_encoding": {"v.list.element": "DELTA_BINARY_PACKED"}}
    with pytest.raises(Unsupported, match="encoding 5"):
        directly(written(column, **options), 2, 2)


def test_rows_before_a_null_are_read():
    column = pa.array([[1, 2]] * 10 + [[3, None]] * 10, FLOATS)
    content = written(column, row_group_size=10)
    reader = VectorReader(pq.ParquetFile(pa.BufferReader(content)).schema, pa.BufferReader(content), "v", 2)
    out = np.empty((10, 2), np.float32)
    reader.read(out)
    np.testing.assert_array_equal(out, [[1, 2]] * 10)
    with pytest.raises(Unsupported):
        reader.read(out)


def test_no_more_rows_are_read_than_there_are():
    content = written(pa.array([[1, 2]] * 3, FLOATS))
    with pytest.raises(Unsupported, match="no rows left"):
        directly(content, 2, 4)


class Watched:
    """A file whose first reads of a window wait for each other."""

    def __init__(self, content, window, together):
        self.content, self.window, self.together = pa.BufferReader(content), window, threading.Barrier(together)
        self.size, self.begun = self.content.size, []

    def read_at(self, n, at):
        if n == self.window:
            self.begun.append(at)
            if len(self.begun) <= self.together.parties:
                self.together.wait(timeout=300)
        return self.content.read_at(n, at)


def test_windows_are_read_ahead_in_parallel_and_no_more_than_asked_for():
    x, window = np.arange(2000 * 128, dtype=np.float32).reshape(2000, 128), 70_000
    content = written(pa.array(list(x), FLOATS), use_dictionary=False, compression="none", data_page_size=10_000)
    threads, out = threading.active_count(), np.empty((50, 128), np.float32)
    schema, file = pq.ParquetFile(pa.BufferReader(content)).schema, Watched(content, window, 3)
    with contextlib.closing(VectorReader(schema, file, "v", 128, window, ahead=3)) as reader:
        for row in range(0, 1000, 50):
            reader.read(out)
            np.testing.assert_array_equal(out, x[row : row + 50])
            needed = 2 + 512 * (row + 50) // window  # as a page header is sought in 65,536 bytes
            assert len(file.begun) <= needed + 3 + 1
    assert sorted(file.begun) == [4 + window * i for i in range(len(file.begun))]
    assert threading.active_count() == threads


def rle(*runs):
    """Levels as (count, value) runs, or as bytes that are bit-packed."""
    encoded = b""
    for run in runs:
        if isinstance(run, bytes):
            encoded += bytes([len(run) << 1 | 1]) + run
        else:
            encoded += bytes([run[0] << 1, run[1]])
    return np.frombuffer(encoded, np.uint8)


@pytest.mark.parametrize(
    ("runs", "phase", "dim", "fits"),
    [
        ([(1, 0), (3, 1), (1, 0), (3, 1)], 0, 4, True),
        ([b"\xee"], 0, 4, True),
        ([b"\x77", (8, 1)], 3, 4, False),
        ([b"\xdd"], 3, 4, True),
        ([(2, 1), (1, 0), (3, 1), (1, 0), (1, 1)], 2, 4, True),
        ([(8, 0)], 0, 1, True),
        ([(8, 0)], 0, 2, False),
        ([(8, 1)], 0, 4, False),
        ([(8, 1)], 1, 9, True),
        ([(8, 1)], 2, 9, False),
        ([(1, 0), (6, 1)], 0, 8, False),  # too few
        ([(8, 3)], 1, 9, False),
        ([(0, 0)], 0, 8, False),
        ([], 0, 8, False),
    ],
)
def test_repetition_levels_are_those_of_rows(runs, phase, dim, fits):
    data = rle(*runs)
    assert parquet_kernels.levels_start_rows(data, 0, len(data), phase, dim, 8) == fits


def test_the_size_of_an_lz4_block_is_computed():
    rng = np.random.default_rng(0)
    for size in (0, 1, 11, 300, 5000, 100_000):
        for x in (rng.bytes(size), bytes(size), rng.integers(0, 3, size, np.uint8).tobytes()):
            block = np.frombuffer(pa.Codec("lz4_raw").compress(x), np.uint8)
            assert parquet_kernels.lz4_size(block) == size
            assert parquet_kernels.lz4_size(block[:-1]) != size or not size


DAMAGED = [
    {"compression": codec, "data_page_version": version, "use_dictionary": dictionary, "write_page_checksum": checksum}
    for codec, version, dictionary, checksum in [
        ("none", "1.0", False, False),
        ("none", "2.0", True, False),
        ("snappy", "1.0", True, False),
        ("snappy", "2.0", False, True),
        ("gzip", "1.0", False, False),
        ("zstd", "2.0", False, False),
        ("lz4", "1.0", True, False),
        ("brotli", "2.0", True, False),
    ]
]


@pytest.mark.parametrize("options", DAMAGED, ids=lambda options: "-".join(map(str, options.values())))
def test_a_file_with_a_byte_changed_is_read_as_by_pyarrow_or_refused(options):
    """With checksums, a changed value is noticed. Without, pyarrow does not notice it either."""
    rng = np.random.default_rng(0)
    x = np.tile(rng.integers(0, 9, (20, 3)), (3, 1)).astype(np.float32)
    original = written(pa.array(list(x), FLOATS), write_statistics=False, **options).to_pybytes()
    refused = 0
    for place in range(len(original)):
        changed = bytearray(original)
        changed[place] ^= int(rng.integers(1, 256))
        try:
            found = directly(bytes(changed), 3, len(x), [60])
        except (Unsupported, pa.ArrowException, OSError, UnicodeDecodeError, KeyError):  # the last ones: in the footer
            refused += 1
            continue
        try:
            expected = by_arrow(bytes(changed))
        except (pa.ArrowException, OSError):
            expected = x  # pyarrow needs a byte that does not matter here
        np.testing.assert_array_equal(bits(found), bits(expected), err_msg=f"byte {place}")
    assert refused > 0.2 * len(original)


@pytest.mark.parametrize("index", [True, False])
def test_single_pages_of_a_file_with_a_byte_changed_are_right_or_refused(index, tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "changed.parquet"
    x = np.tile(rng.integers(0, 9, (20, 3)), (6, 1)).astype(np.float32)
    original = written(
        pa.array(list(x), FLOATS), write_page_checksum=True, write_page_index=index, data_page_size=100,
        write_batch_size=10, row_group_size=60, compression="none",
    ).to_pybytes()  # fmt: skip
    path.write_bytes(original)
    pages = len(PageReader(str(path), "v", 3).starts) - 1
    assert pages > 5
    refused = 0
    for place in rng.choice(len(original), 400, replace=False):
        changed = bytearray(original)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            reader = PageReader(str(path), "v", 3)
            found = np.concatenate(list(reader.read_pages(range(len(reader.starts) - 1))))
        except (Unsupported, ValueError, pa.ArrowException, OSError):
            refused += 1
            continue
        try:
            expected = by_arrow(bytes(changed))
        except (pa.ArrowException, OSError):
            expected = x
        np.testing.assert_array_equal(bits(found), bits(expected), err_msg=f"byte {place}")
    assert refused > 100


def test_random_bytes_in_pages_never_crash():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (400, 3)).astype(np.float32)
    for dictionary in (True, False):
        original = written(pa.array(list(x), FLOATS), compression="none", use_dictionary=dictionary).to_pybytes()
        pages = len(original) - 8 - int.from_bytes(original[-8:-4], "little")
        for _ in range(300):
            changed = bytearray(original)
            for place in rng.integers(4, pages, 10):
                changed[place] = rng.integers(256)
            with contextlib.suppress(Unsupported):
                directly(bytes(changed), 3, len(x), [400])


def test_encrypted_columns_are_refused(tmp_path):
    class Kms(pe.KmsClient):
        def wrap_key(self, key, name):
            return base64.b64encode(key)

        def unwrap_key(self, key, name):
            return base64.b64decode(key)

    factory, path = pe.CryptoFactory(lambda _: Kms()), tmp_path / "v.parquet"
    table = pa.table({"id": [1, 2], "v": pa.array([[1, 2], [3, 4]], FLOATS)})
    encryption = pe.EncryptionConfiguration("f", column_keys={"c": ["v.list.element"]}, plaintext_footer=True)
    pq.write_table(
        table, path, encryption_properties=factory.file_encryption_properties(pe.KmsConnectionConfig(), encryption)
    )
    keys = factory.file_decryption_properties(pe.KmsConnectionConfig())
    schema = pq.ParquetFile(path, decryption_properties=keys).schema
    with pytest.raises(Unsupported, match="encrypted"), pa.OSFile(str(path)) as file:
        VectorReader(schema, file, "v", 2).read(np.empty((2, 2), np.float32))
