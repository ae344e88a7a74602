"""Read single pages of a column of vectors, for access to a few rows without the others."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from . import filesystem, parquet
from .parquet_pages import (
    DATA_PAGE,
    DATA_PAGE_V2,
    DICTIONARY_PAGE,
    HEADER_BYTES,
    Array,
    Unsupported,
    VectorReader,
    page_header,
    thrift_struct,
)

READERS = 16  # pages to read from a remote store at a time


class PageLocation(NamedTuple):
    """A page: its place in the file with its header, the values before it in its column chunk, and that chunk."""

    at: int
    size: int
    done: int
    chunk: int


class PageReader(VectorReader):
    """Reads the pages of a file in any order. Keeps their positions, but no file open.

    The positions come from the offset index, if the file has one, else from the page headers, which are read only from
    local files: a remote store would need a request for each.

    Attributes
    ----------
    starts : ndarray, shape (p + 1,) int64
        The number of values before each page, and of all values. A page may begin within a row.

    Raises
    ------
    Unsupported
        As `VectorReader` does, and for a remote file without an offset index.
    """

    def __init__(self, url: str, column: str, dim: int) -> None:
        self._url = url
        file, source = parquet.open_with_file(url, [column])
        with source:
            super().__init__(file.schema, source, column, dim, HEADER_BYTES)
            self._chunks = list(self._column_chunks())
            self._places = [place for number in range(len(self._chunks)) for place in self._locate(number)]
        self._first = {place.chunk: place.at for place in reversed(self._places)}
        before = np.cumsum([0, *(chunk.values for chunk in self._chunks)])
        self.starts = np.array([*(before[place.chunk] + place.done for place in self._places), before[-1]], np.int64)

    def read_pages(self, pages: Sequence[int]) -> Iterator[Array]:
        """Yield the values of some pages, in increasing order, as float32.

        Raises
        ------
        Unsupported
            If one of them cannot be read.
        """
        fs, path = filesystem.arrow(self._url)
        dictionary: Array | None = None
        chunk = -1
        with fs.open_input_file(path) as source:
            contents = _contents(source, [self._places[page] for page in pages], filesystem.is_remote(self._url))
            for page, content in zip(pages, contents, strict=True):
                place = self._places[page]
                if place.chunk != chunk:
                    chunk, dictionary = place.chunk, self._read_dictionary(source, place.chunk)
                header, size = page_header(content)
                if header.kind not in (DATA_PAGE, DATA_PAGE_V2) or header.compressed != len(content) - size:
                    raise Unsupported("no page where one should be")
                count, fill = self._data_page(header, content[size:], place.done, self._chunks[chunk], dictionary)
                if count != self.starts[page + 1] - self.starts[page]:
                    raise Unsupported("a page of another length")
                values = np.empty(count, np.float32)
                fill(values)
                yield values

    def _locate(self, number: int) -> Iterator[PageLocation]:
        """Yield the data pages of a column chunk."""
        chunk = self._chunks[number]
        if chunk.offsets_size:
            yield from self._located(number)
            return
        if filesystem.is_remote(self._url):
            raise Unsupported("no offset index")
        at, end, done = chunk.start, chunk.start + chunk.size, 0
        if not 0 <= at < end <= self._file.size():
            raise Unsupported("a column outside the file")
        while done < chunk.values:
            page, size = page_header(self._bytes(at, min(at + HEADER_BYTES, end), end))
            if not 0 <= page.compressed <= end - at - size:
                raise Unsupported("a page longer than the column")
            if page.kind in (DATA_PAGE, DATA_PAGE_V2):
                yield PageLocation(at, size + page.compressed, done, number)
                done += page.about.get(1, chunk.values + 1)
            at += size + page.compressed
        if done != chunk.values:
            raise Unsupported("more values than in the column")

    def _located(self, number: int) -> Iterator[PageLocation]:
        """Yield the data pages in an offset index. Each begins with a row; some are empty."""
        chunk, done = self._chunks[number], -1
        end = chunk.start + chunk.size
        if not 0 <= chunk.offsets <= self._file.size() - chunk.offsets_size:
            raise Unsupported("an offset index outside the file")
        try:
            pages = thrift_struct(memoryview(self._file.read_at(chunk.offsets_size, chunk.offsets)), 0)[0][1]
            for at, size, row in ((page[1], page[2], page[3]) for page in pages):
                in_order = done <= row * self._dim < chunk.values if done >= 0 else row == 0
                if not (in_order and chunk.start <= at < at + size <= end):
                    raise Unsupported("a damaged offset index")
                done = row * self._dim
                yield PageLocation(at, size, done, number)
        except (IndexError, KeyError, TypeError):
            raise Unsupported("a damaged offset index") from None

    def _read_dictionary(self, source: Any, number: int) -> Array | None:
        chunk = self._chunks[number]
        if (first := self._first[number]) <= chunk.start:
            return None
        content = np.frombuffer(source.read_at(first - chunk.start, chunk.start), np.uint8)
        page, size = page_header(content)
        if page.kind != DICTIONARY_PAGE:
            return None
        return self._dictionary(page, content[size : size + page.compressed], chunk.codec)


def _contents(source: Any, places: Sequence[PageLocation], remote: bool) -> Iterator[Array]:
    """Yield the bytes of some pages of a file; READERS of them are in memory at a time."""

    def read(place: PageLocation) -> Array:
        return np.frombuffer(source.read_at(place.size, place.at), np.uint8)

    if not remote:
        yield from map(read, places)
        return
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(places), READERS):
            yield from pool.map(read, places[start : start + READERS])
