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
    except pa.ArrowInvalid as error:
        raise ValueError(f"expected a Parquet file, found something else, in {url}: {_line(error)}") from None
    names = file.schema_arrow.names
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
        if "AWS Error" in str(error) or isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"expected a whole Parquet file, found it damaged after row {row}, in {url}: {_line(error)}"
        ) from None


def column(url: str, name: str) -> Any:
    """A whole column, as one array."""
    import pyarrow as pa

    return pa.chunked_array([part[0] for part in batches(url, [name])]).combine_chunks()


def _line(error: Exception) -> str:
    return str(error).partition("\n")[0]
