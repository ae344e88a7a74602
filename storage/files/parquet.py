"""Parquet files of others: opened, read by batches, and what is wrong with them said in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import filesystem


def opened(url: str, wanted: Sequence[str] = ()) -> Any:
    """A Parquet file that has some columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, path = filesystem.arrow(url)
    try:
        file = pq.ParquetFile(path, filesystem=fs, pre_buffer=False, page_checksum_verification=True)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if _of_the_store(error):
            raise
        raise ValueError(f"expected a Parquet file, found something else, in {url}: {_line(error)}") from None
    if missing := sorted(set(wanted) - set(names)):
        raise ValueError(f"expected the columns {', '.join(missing)}, found {', '.join(names)}, in {url}")
    return file


def batches(url: str, wanted: Sequence[str], n: int = 2**16) -> Iterator[Any]:
    """The rows of some columns, n at a time."""
    import pyarrow as pa

    row = 0
    try:
        for part in opened(url, wanted).iter_batches(n, columns=wanted):
            yield part
            row += len(part)
    except (pa.ArrowException, OSError) as error:
        if _of_the_store(error):
            raise
        raise ValueError(
            f"expected a whole Parquet file, found it damaged after row {row}, in {url}: {_line(error)}"
        ) from None


def column(url: str, name: str) -> Any:
    """A whole column, as one array."""
    import pyarrow as pa

    kind = opened(url, [name]).schema_arrow.field(name).type
    return pa.chunked_array([part[0] for part in batches(url, [name])], kind).combine_chunks()


def _of_the_store(error: Exception) -> bool:
    """Whether a file could not be read; Arrow also says OSError, without a number, where it cannot be understood."""
    return isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error))


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
