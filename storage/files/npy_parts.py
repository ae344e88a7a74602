"""Read vectors from .npy files. A second folder may have Parquet files with the other columns of the same rows.

A file of vectors belongs to the Parquet file with the same number at the end of its name, as clip-retrieval writes and
embedding-reader reads them: img_emb/img_emb_7.npy, metadata/metadata_7.parquet.
"""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from . import filesystem
from .parquet import check_columns

COLUMN = "vector"


class Header(NamedTuple):
    """The header of a .npy file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int  # position of the first value in the file


def file_number(url: str) -> int | None:
    """Return the number at the end of a file's name; None if there is none."""
    found = re.search(r"(\d+)\.\w+$", url)
    return int(found[1]) if found else None


def header(url: str) -> Header:
    """Return the header of a file. Raises ValueError unless it holds vectors (n, d) of numbers, in C order."""
    fs, path = filesystem.arrow(url)
    with fs.open_input_file(path) as file:
        try:
            major, _ = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, in_columns, dtype = read(file)
        except ValueError as error:
            raise ValueError(f"{url}: expected a .npy file of numbers, found something else: {error}") from None
        start = file.tell()
        if len(shape) != 2 or dtype.kind not in "biuf" or dtype.itemsize > 8 or not shape[1]:
            raise ValueError(f"{url}: expected vectors (n, d) of numbers, found {shape} {dtype}")
        if in_columns and min(shape) > 1:
            raise ValueError(f"{url}: expected rows one after another (C order), found columns (Fortran order)")
        if (size := file.size()) != (expected := start + math.prod(shape) * dtype.itemsize):
            raise ValueError(f"{url}: expected {shape[0]} rows in {expected} bytes, found {size} bytes")
    return Header(shape, dtype, start)


def schema(url: str) -> Any:
    """Return the Arrow schema of a file: one column, COLUMN."""
    import pyarrow as pa

    found = header(url)
    return pa.schema([(COLUMN, pa.list_(pa.from_numpy_dtype(found.dtype.newbyteorder("=")), found.shape[1]))])


def count_rows(url: str) -> int:
    """Return the number of rows, from the header."""
    return header(url).shape[0]


def read_batches(url: str, columns: Sequence[str], batch_rows: int) -> Iterator[Any]:
    """Yield the vectors as record batches of at most `batch_rows` rows. Raises ValueError for columns but COLUMN."""
    import pyarrow as pa

    check_columns(url, schema(url), columns)
    n = count_rows(url)
    for row in range(0, n, batch_rows):
        vectors = read_rows(url, row, min(batch_rows, n - row))
        yield pa.record_batch([vectors for _ in columns], names=list(columns))


def read_rows(url: str, first: int, n: int) -> Any:
    """Return n consecutive vectors of a file as an Arrow array."""
    import pyarrow as pa

    (_, d), dtype, start = header(url)
    fs, path = filesystem.arrow(url)
    with fs.open_input_file(path) as file:
        content = file.read_at(n * d * dtype.itemsize, start + first * d * dtype.itemsize)
    values = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="), copy=False)
    return pa.FixedSizeListArray.from_arrays(pa.array(values), d)
