"""Decode vectors directly from the pages of a Parquet file, several times faster than Arrow reads lists.

If all lists of a column have the same length and nothing is null, the column is one long array of numbers, and its
levels only need a check. With parquet_kernels and parquet_windows, this module depends on pyarrow (footer, codecs,
files), numpy and Numba, and on no other part of Hashkiln. The format: https://parquet.apache.org/docs/file-format/
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from . import parquet_kernels as kernels
from .parquet_windows import Window, WindowsAhead

Array = np.ndarray[Any, Any]
Fill = Callable[[Array], bool]

STORED: dict[str, tuple[str, Any]] = {  # type of the values: physical type, and how it is stored
    "halffloat": ("FIXED_LEN_BYTE_ARRAY", np.dtype("<f2")),
    "float": ("FLOAT", np.dtype("<f4")),
    "double": ("DOUBLE", np.dtype("<f8")),
    **{name: ("INT32", np.dtype("<i4")) for name in ("int8", "int16", "int32", "uint8", "uint16")},
    "int64": ("INT64", np.dtype("<i8")),
}
DATA_PAGE, INDEX_PAGE, DICTIONARY_PAGE, DATA_PAGE_V2 = 0, 1, 2, 3
UNCOMPRESSED, SNAPPY, GZIP, BROTLI, ZSTD, LZ4_RAW = 0, 1, 2, 4, 6, 7
PLAIN, PLAIN_DICTIONARY, RLE, RLE_DICTIONARY, BYTE_STREAM_SPLIT = 0, 2, 3, 8, 9
HEADER_BYTES = 2**16  # a page header with its statistics is shorter, and so are most footers
FOOTER_BYTES = 2**22  # of the largest footer to parse, in about a second
INDEX_BITS = 24  # of the indices into the largest dictionary to read
WINDOW = 2**22  # bytes to read at a time


class Unsupported(Exception):
    """The remaining rows have another shape or encoding, or are damaged: read them with pyarrow."""


class VectorReader:
    """Reads the rows of a column in order, as float32.

    Values of other types are converted as by numpy's `astype`. Page checksums are verified where there are any. Memory
    is bounded by the windows, or the largest page where that is larger.

    Parameters
    ----------
    schema : `schema` of a pyarrow.parquet.ParquetFile
    file : pyarrow.NativeFile of the same bytes, open for random access
    column : name of a top-level column
    dim : number of values in each row, at least 1
    window : bytes to read at a time
    ahead : number of windows that threads read ahead, which a remote store needs: `close` the reader to end them

    Raises
    ------
    Unsupported
        If the column is of another type.

    Examples
    --------
    >>> import pyarrow.parquet as pq
    >>> sink = pa.BufferOutputStream()
    >>> pq.write_table(pa.table({"x": [[1.0, 2.0], [3.0, 4.0]]}), sink)
    >>> content = pa.BufferReader(sink.getvalue())
    >>> out = np.empty((2, 2), np.float32)
    >>> VectorReader(pq.ParquetFile(content).schema, content, "x", dim=2).read(out)
    True
    >>> out
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    """

    def __init__(self, schema: Any, file: Any, column: str, dim: int, window: int = WINDOW, ahead: int = 0) -> None:
        self._file, self._dim = file, dim
        self._leaf, self._type = _leaf(schema, column, dim)
        leaf = schema.column(self._leaf)
        self._stored = STORED[str(self._type)][1]
        self._definition = leaf.max_definition_level
        self._groups = column_chunks(file, self._leaf)
        ranges = [(chunk.start, chunk.start + chunk.size) for rows, chunk in self._groups if rows]
        self._windows = WindowsAhead(file, window, ahead, ranges) if ahead else Window(file, window)
        self._pages = self._all_pages()
        self._left = 0  # values left in the current page
        self._fill: Fill  # fills an array with the next of them, and returns whether they are finite

    def read(self, out: Array) -> bool:
        """Fill out (n, dim) float32, contiguous, with the next n rows, and return whether all values are finite.

        Raises
        ------
        Unsupported
            If they cannot be read. The content of `out` is then undefined, and the reader unusable.
        """
        values = out.reshape(-1)
        done, finite = 0, True
        while done < len(values):
            if not self._left:
                if not (page := next(self._pages, None)):
                    raise Unsupported("no rows left")
                self._left, self._fill = page
            n = min(self._left, len(values) - done)
            finite &= self._fill(values[done : done + n])
            done += n
            self._left -= n
        return finite

    def close(self) -> None:
        """End the threads that read ahead."""
        self._windows.close()

    def _all_pages(self) -> Iterator[tuple[int, Fill]]:
        """Yield the number of values in each data page, and a function that fills an array with the next of them."""
        for chunk in self._column_chunks():
            yield from self._chunk_pages(chunk)

    def _column_chunks(self) -> Iterator[Chunk]:
        """Yield the chunk of each row group that has rows."""
        for rows, chunk in self._groups:
            if chunk.values != rows * self._dim:
                raise Unsupported(f"{chunk.values} values in {rows} rows")
            if rows:
                yield chunk

    def _chunk_pages(self, chunk: Chunk) -> Iterator[tuple[int, Fill]]:
        at, end, done, dictionary = chunk.start, chunk.start + chunk.size, 0, None
        if not 0 <= at < end <= self._file.size():
            raise Unsupported("a column outside the file")
        while done < chunk.values:
            page, size = page_header(self._bytes(at, min(at + HEADER_BYTES, end), end))
            at += size
            if not 0 <= page.compressed <= end - at:
                raise Unsupported("a page longer than the column")
            data = self._bytes(at, at + page.compressed, end)
            at += page.compressed
            if page.kind == DICTIONARY_PAGE and dictionary is None and not done:
                dictionary = self._dictionary(page, data, chunk.codec)
            elif page.kind in (DATA_PAGE, DATA_PAGE_V2):
                yield self._data_page(page, data, done, chunk, dictionary)
                done += page.about[1]
            elif page.kind != INDEX_PAGE:
                raise Unsupported(f"a page of type {page.kind}")

    def _data_page(
        self, page: Page, data: Array, done: int, chunk: Chunk, dictionary: Array | None
    ) -> tuple[int, Fill]:
        """Return the number of values in a data page, after `done` values, and a function that fills an array."""
        _check_sum(page, data)
        count = page.about.get(1, -1)
        if not 0 <= count <= chunk.values - done:
            raise Unsupported("more values than in the column")
        values = self._checked_values(page, data, count, done % self._dim, chunk.codec)
        encoding = page.about.get(2 if page.kind == DATA_PAGE else 4, -1)
        return count, self._decoder(values, count, encoding, dictionary)

    def _dictionary(self, page: Page, data: Array, codec: int) -> Array:
        _check_sum(page, data)
        n = page.about.get(1, -1)
        if page.about.get(2) not in (PLAIN, PLAIN_DICTIONARY) or not 0 <= n <= 1 << INDEX_BITS:
            raise Unsupported("a dictionary of another encoding")
        if page.full != n * self._stored.itemsize:
            raise Unsupported("a dictionary of another length")
        return self._floats(_decompressed(data, page.full, codec))

    def _checked_values(self, page: Page, data: Array, count: int, phase: int, codec: int) -> Array:
        """Return the encoded values of a data page, after a check of its levels.

        Raises
        ------
        Unsupported
            Unless the page consists of rows of `dim` values without nulls. `phase` is the position of its first value
            in a row, because a page may begin in the middle of one.
        """
        about = page.about
        if not 0 <= page.full <= 1024 + count * (self._stored.itemsize + 16):  # before memory is allocated
            raise Unsupported("a page of another length")
        if page.kind == DATA_PAGE:
            if about.get(3) != RLE or about.get(4) != RLE:
                raise Unsupported("levels of another encoding")
            data = _decompressed(data, page.full, codec)
            start, stop = 4, 4 + int.from_bytes(data[:4].tobytes(), "little")
            at, end = stop + 4, stop + 4 + int.from_bytes(data[stop : stop + 4].tobytes(), "little")
        else:
            start, stop = 0, about.get(6, -1)
            at, end = stop, stop + about.get(5, -1)
        if not start <= stop <= at <= end <= min(len(data), page.full):
            raise Unsupported("levels longer than their page")
        width = self._definition.bit_length()
        if not kernels.levels_start_rows(data, start, stop, phase, self._dim, count):
            raise Unsupported("rows of another length")
        if not kernels.levels_equal(data, at, end, width, self._definition, count):
            raise Unsupported("nulls")
        if page.kind == DATA_PAGE:
            return data[end:]
        return _decompressed(data[end:], page.full - end, codec if about.get(7, True) else UNCOMPRESSED)

    def _decoder(self, data: Array, count: int, encoding: int, dictionary: Array | None) -> Fill:
        """Return a function that fills an array with the next values of a page, and returns whether they are finite."""
        size, done = self._stored.itemsize, 0
        if encoding in (PLAIN, BYTE_STREAM_SPLIT) and len(data) != count * size:
            raise Unsupported("a page of another length")
        if encoding == PLAIN:

            def fill(out: Array) -> bool:
                nonlocal done
                part = data[done * size : (done + len(out)) * size]
                done += len(out)
                if str(self._type) == "float":
                    out.view(np.uint8)[:] = part  # NaNs keep their bits
                    return bool(kernels.all_finite(part))  # it is in the cache, unlike its copy
                out[:] = self._floats(part)
                return _all_finite(out)

        elif encoding == BYTE_STREAM_SPLIT:

            def fill(out: Array) -> bool:
                nonlocal done
                if str(self._type) == "float":
                    kernels.join_streams(data, count, done, out.view(np.uint32))
                else:
                    streams = data.reshape(size, count)[:, done : done + len(out)]
                    out[:] = self._floats(np.ascontiguousarray(streams.T).reshape(-1))
                done += len(out)
                return _all_finite(out)

        elif encoding in (PLAIN_DICTIONARY, RLE_DICTIONARY):
            width = int(data[0]) if len(data) else INDEX_BITS + 1
            if dictionary is None or width > INDEX_BITS:
                raise Unsupported("no dictionary, or a large one")
            padded = np.zeros(1 << width, np.float32)  # so that no index is out of bounds
            padded[: len(dictionary)] = dictionary[: len(padded)]
            state, known = np.array([1, 0, 0, 0]), len(dictionary)

            def fill(out: Array) -> bool:
                if not kernels.gather(data, state, width, known, padded, out):
                    raise Unsupported("an index beyond the dictionary")
                return _all_finite(out)

        else:
            raise Unsupported(f"encoding {encoding}")
        return fill

    def _floats(self, data: Array) -> Array:
        """Return stored values as float32."""
        values: Array = np.frombuffer(data, self._stored)
        if self._type.bit_width < 32 and self._stored.kind == "i":
            values = values.astype(self._type.to_pandas_dtype())
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(np.float32)

    def _bytes(self, start: int, stop: int, end: int) -> Array:
        """Return some bytes of a column chunk that stops at `end`, valid until the next call."""
        if len(data := self._windows.read(start, stop, end)) < stop - start:
            raise Unsupported("the file ends in a page")
        return data


def _all_finite(out: Array) -> bool:
    return bool(kernels.all_finite(np.frombuffer(out.data.toreadonly(), np.uint8)))


def _check_sum(page: Page, data: Array) -> None:
    if page.crc is not None and zlib.crc32(data.data) != page.crc & 0xFFFFFFFF:
        raise Unsupported("a wrong checksum")


def _leaf(schema: Any, column: str, dim: int) -> tuple[int, Any]:
    """Return the number of the leaf column of a list column, and the Arrow type of its values."""
    leaves = [i for i in range(len(schema)) if schema.column(i).path.split(".")[0] == column]
    if dim < 1 or len(leaves) != 1 or schema.column(leaves[0]).max_repetition_level != 1:
        raise Unsupported("no column of lists")
    kind, leaf = schema.to_arrow_schema().field(column).type, schema.column(leaves[0])
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise Unsupported(f"a column of {kind}")
    physical, stored = STORED.get(str(kind.value_type), ("", np.dtype("<f4")))
    if leaf.physical_type != physical or (physical == "FIXED_LEN_BYTE_ARRAY" and leaf.length != stored.itemsize):
        raise Unsupported(f"values of {kind.value_type} stored as {leaf.physical_type}")
    if pa.types.is_fixed_size_list(kind) and kind.list_size != dim:
        raise Unsupported(f"rows of {kind.list_size} values")
    return leaves[0], kind.value_type


def _decompressed(data: Array, size: int, codec: int) -> Array:
    """Return the content of a page, whose size is known.

    Raises
    ------
    Unsupported
        If it has another size. Most of pyarrow's codecs accept one that is too large, and leave the rest of the memory
        uninitialized.
    """
    try:
        if codec == UNCOMPRESSED:
            content, found = data, len(data)
        elif codec == BROTLI:
            stream = pa.CompressedInputStream(pa.BufferReader(data), "brotli")
            content = np.frombuffer(stream.read(size + 1), np.uint8)
            found = len(content)
        else:
            if codec == SNAPPY:
                found = _varint(data.data, 0)[0]
            elif codec == GZIP:
                found = int.from_bytes(data[-4:].tobytes(), "little") if data[:2].tobytes() == b"\x1f\x8b" else -1
            elif codec == LZ4_RAW:
                found = kernels.lz4_size(data)
            else:
                found = size if codec == ZSTD else -1  # zstd checks it
            if found == size:
                name = {SNAPPY: "snappy", GZIP: "gzip", LZ4_RAW: "lz4_raw", ZSTD: "zstd"}[codec]
                content = np.frombuffer(pa.Codec(name).decompress(data, size), np.uint8)
    except (pa.ArrowException, OSError, IndexError, ValueError) as error:
        raise Unsupported(f"a damaged page: {error}") from None
    if found != size:
        raise Unsupported("a page of another length")
    return content


class Chunk(NamedTuple):
    """A column chunk: its place in the file, number of values, codec, and place of its offset index; size 0 if none."""

    start: int
    size: int
    values: int
    codec: int
    offsets: int
    offsets_size: int


def column_chunks(file: Any, leaf: int) -> list[tuple[int, Chunk]]:
    """Return the number of rows in each row group, and the chunk of one leaf column in it.

    This parses the footer without pyarrow, which aborts the process for a chunk with damaged or encrypted metadata.
    """
    size = file.size()
    tail = file.read_at(min(size, HEADER_BYTES), max(0, size - HEADER_BYTES))
    length = int.from_bytes(tail[-8:-4], "little")
    if tail[-4:] != b"PAR1" or length > min(size - 12, FOOTER_BYTES):
        raise Unsupported("no plain footer, or a large one")
    if length > len(tail) - 8:
        tail = file.read_at(length + 8, size - length - 8)
    try:
        footer, _ = thrift_struct(memoryview(tail)[-8 - length : -8], 0)
        chunks = []
        for group in footer[4]:
            chunk = group[1][leaf]
            about = chunk[3]
            if 1 in chunk or 8 in chunk:
                raise Unsupported("a column in another file, or encrypted")
            start, dictionary = about[9], about.get(11, 0)
            start = dictionary if 0 < dictionary < start else start
            numbers = group[3], start, about[7], about[5], about[4], chunk.get(4, 0), chunk.get(5, 0)
            if not all(isinstance(number, int) for number in numbers):
                raise TypeError
            chunks.append((group[3], Chunk(*numbers[1:])))
    except (IndexError, KeyError, TypeError, AttributeError):
        raise Unsupported("a damaged footer") from None
    return chunks


class Page(NamedTuple):
    """A page header: type, sizes in bytes before and after compression, checksum, and the fields of its type."""

    kind: int
    full: int
    compressed: int
    crc: int | None
    about: dict[int, int]


def page_header(data: Array) -> tuple[Page, int]:
    """Return the page header at the beginning of some bytes, and its length."""
    try:
        fields, size = thrift_struct(data.data, 0)
    except IndexError:
        raise Unsupported("a page header that does not end") from None
    numbers = {number: value for number, value in fields.items() if isinstance(value, int)}
    kind = numbers.get(1, -1)
    about = fields.get({DATA_PAGE: 5, DICTIONARY_PAGE: 7, DATA_PAGE_V2: 8}.get(kind, -1))
    about = {n: value for n, value in about.items() if isinstance(value, int)} if isinstance(about, dict) else {}
    return Page(kind, numbers.get(2, -1), numbers.get(3, -1), numbers.get(4), about), size


def thrift_struct(data: memoryview, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Return the fields of a struct in Thrift's compact protocol, and the position after it.

    Raises IndexError if it is truncated.
    """
    fields: dict[int, Any] = {}
    number = 0
    while byte := data[at]:
        at += 1
        if byte >> 4:
            number += byte >> 4
        else:
            number, at = _signed(data, at)
        if (kind := byte & 15) in (1, 2):
            fields[number] = kind == 1
        else:
            fields[number], at = _value(data, at, kind, depth)
    return fields, at + 1


def _value(data: memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """Return a number, a struct, or a list of them, and the position after it; None for types that are skipped."""
    if kind in (4, 5, 6):
        return _signed(data, at)
    if kind == 8:
        size, at = _varint(data, at)
        return None, at + size
    if kind == 12 and depth < 16:
        return thrift_struct(data, at, depth + 1)
    if kind in (9, 10) and depth < 16:
        size, kind = data[at] >> 4, data[at] & 15
        at += 1
        if size == 15:
            size, at = _varint(data, at)
        values = []
        for _ in range(min(size, len(data))):
            value, at = _value(data, at, kind, depth + 1)
            values.append(value)
        return values, at
    if kind in (1, 2, 3, 7):
        return None, at + (8 if kind == 7 else 1)
    raise Unsupported("a damaged header")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    if (value := data[at]) < 128:  # the common case
        return value, at + 1
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    raise Unsupported("a damaged number")


def _signed(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at
