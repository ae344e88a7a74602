"""Read Parquet files written by others. A damaged or foreign file gives an error of one line with its URL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from . import filesystem

LOCAL_WINDOW, REMOTE_WINDOW = 2**22, 2**25  # bytes of vectors to read at a time


def open_parquet(url: str, columns: Sequence[str] = ()) -> Any:
    """Return the pyarrow ParquetFile at a URL, with page checksums verified on read.

    Raises
    ------
    ValueError
        If the file is not Parquet, or lacks one of `columns`.
    """
    return _open(url, columns)[0]


def _open(url: str, columns: Sequence[str]) -> tuple[Any, Any]:
    """Return the pyarrow ParquetFile at a URL, and the file that it reads."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, path = filesystem.arrow(url)
    try:
        source = fs.open_input_file(path)
        file = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if _from_store(error):
            raise
        raise ValueError(f"{url} is not a Parquet file: {_first_line(error)}") from None
    if missing := sorted(set(columns) - set(names)):
        raise ValueError(f"expected the columns {', '.join(missing)}, found {', '.join(names)}, in {url}")
    return file, source


def read_batches(url: str, columns: Sequence[str], batch_rows: int = 2**16) -> Iterator[Any]:
    """Yield some columns of a file as record batches of at most `batch_rows` rows.

    Raises
    ------
    ValueError
        As `open_parquet` does, and where the file is damaged, with the row.
    """
    yield from _batches(url, open_parquet(url, columns), columns, batch_rows)


def read_vectors(
    url: str, column: str, dim: int, others: Sequence[str], batch_rows: int
) -> Iterator[tuple[Any, Array | Any]]:
    """Yield record batches of some columns, and the vectors of another column in the same rows.

    They are (n, dim) float32. From the first batch on that `parquet_pages` cannot decode, they are lists, as pyarrow
    reads them.

    Raises
    ------
    ValueError
        As `read_batches` does.
    """
    import pyarrow as pa

    from .parquet_pages import Unsupported, VectorReader

    file, source = _open(url, [*others, column])
    window = REMOTE_WINDOW if url.startswith("s3://") else LOCAL_WINDOW
    done = 0
    try:
        reader = VectorReader(file.schema, source, column, dim, window)
        for batch in file.iter_batches(batch_rows, columns=others):
            x = np.empty((len(batch), dim), np.float32)
            reader.read(x)
            yield batch, x
            done += 1
        return
    except (Unsupported, pa.ArrowException):
        pass  # pyarrow reads it, or says what is wrong
    except OSError as error:
        if _from_store(error):
            raise
    for batch in islice(_batches(url, file, [*others, column], batch_rows), done, None):
        yield batch.select(others), batch[column]


def _batches(url: str, file: Any, columns: Sequence[str], batch_rows: int) -> Iterator[Any]:
    import pyarrow as pa

    row = 0
    try:
        for batch in file.iter_batches(batch_rows, columns=columns):
            yield batch
            row += len(batch)
    except (pa.ArrowException, OSError) as error:
        if _from_store(error):
            raise
        raise ValueError(f"{url} is damaged after row {row}: {_first_line(error)}") from None


def read_column(url: str, name: str) -> Any:
    """Return a whole column as one Arrow array."""
    import pyarrow as pa

    kind = open_parquet(url, [name]).schema_arrow.field(name).type  # for a file without rows
    return pa.chunked_array([batch[0] for batch in read_batches(url, [name])], kind).combine_chunks()


def _from_store(error: Exception) -> bool:
    """Whether the store failed. For content that it cannot parse, Arrow raises OSError too, but without an errno."""
    return isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
