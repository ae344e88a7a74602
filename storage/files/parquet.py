"""Read Parquet files written by others. A damaged or foreign file gives an error of one line with its URL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from . import filesystem


def open_parquet(url: str, columns: Sequence[str] = ()) -> Any:
    """Return the pyarrow ParquetFile at a URL, with page checksums verified on read.

    Raises
    ------
    ValueError
        If the file is not Parquet, or lacks one of `columns`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, path = filesystem.arrow(url)
    try:
        file = pq.ParquetFile(path, filesystem=fs, pre_buffer=False, page_checksum_verification=True)
        names = file.schema_arrow.names
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if _from_store(error):
            raise
        raise ValueError(f"{url} is not a Parquet file: {_first_line(error)}") from None
    if missing := sorted(set(columns) - set(names)):
        raise ValueError(f"expected the columns {', '.join(missing)}, found {', '.join(names)}, in {url}")
    return file


def read_batches(url: str, columns: Sequence[str], batch_rows: int = 2**16) -> Iterator[Any]:
    """Yield some columns of a file as record batches of at most `batch_rows` rows.

    Raises
    ------
    ValueError
        As `open_parquet` does, and where the file is damaged, with the row.
    """
    import pyarrow as pa

    row = 0
    try:
        for batch in open_parquet(url, columns).iter_batches(batch_rows, columns=columns):
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
