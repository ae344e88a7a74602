"""Read Parquet files of any origin. Errors for damaged files and other formats are one line, with the URL."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from . import filesystem

LOCAL_WINDOW, REMOTE_WINDOW = 2**16, 2**23  # bytes of vectors to read at a time
AHEAD = 8  # windows that are read from a remote store at a time: a single connection to S3 reads 0.1 GB/s


def open_parquet(url: str, columns: Sequence[str] = ()) -> Any:
    """Return the pyarrow ParquetFile at a URL, with page checksums verified on read.

    Raises
    ------
    ValueError
        If the file is not Parquet, or lacks one of `columns` (see `field_of`).
    """
    return open_with_file(url, columns)[0]


def open_with_file(url: str, columns: Sequence[str]) -> tuple[Any, Any]:
    """Return the pyarrow ParquetFile at a URL, and the file that it reads."""
    import pyarrow.parquet as pq

    fs, path = filesystem.arrow(url)
    with foreign(url, "a Parquet file"):
        source = fs.open_input_file(path)
        file = pq.ParquetFile(source, pre_buffer=False, page_checksum_verification=True)
        schema = file.schema_arrow
    check_columns(url, schema, columns)
    return file, source


def check_columns(url: str, schema: Any, columns: Sequence[str]) -> None:
    """Raise ValueError if a file with an Arrow schema lacks one of the columns (see `field_of`)."""
    if missing := sorted(name for name in set(columns) if field_of(schema, name) is None):
        raise ValueError(f"expected the columns {', '.join(missing)}, found {', '.join(schema.names)}, in {url}")


def schema(url: str) -> Any:
    """Return the Arrow schema of a file. Raises ValueError if it is not Parquet."""
    return open_parquet(url).schema_arrow


def count_rows(url: str) -> int:
    """Return the number of rows, from the footer."""
    return int(open_parquet(url).metadata.num_rows)


def field_of(schema: Any, name: str) -> Any:
    """Return the Arrow field of a column, or of a field in a struct by its dotted path; None if there is none."""
    import pyarrow as pa

    if name in schema.names:
        return schema.field(name)
    struct = next((field for field in schema if name.startswith(f"{field.name}.")), None)
    if struct is None or not pa.types.is_struct(struct.type):
        return None
    return field_of(pa.schema(list(struct.type)), name[len(struct.name) + 1 :])


def _column(table: Any, name: str) -> Any:
    """Return the column of a record batch that `field_of` finds; it is null where a struct on the path is null."""
    import pyarrow as pa

    if name in table.schema.names:
        return table.column(name)
    struct = next(field.name for field in table.schema if name.startswith(f"{field.name}."))
    inside = pa.RecordBatch.from_struct_array(pa.StructArray.from_arrays(*_children(table.column(struct))))
    return _column(inside, name[len(struct) + 1 :])


def named(table: Any, names: Sequence[str]) -> Any:
    """Return a record batch of some columns, under the names that the user gave."""
    import pyarrow as pa

    return pa.record_batch([_column(table, name) for name in names], names=list(names))


def _children(struct: Any) -> tuple[list[Any], list[str]]:
    return struct.flatten(), [field.name for field in struct.type]


def read_batches(url: str, columns: Sequence[str], batch_rows: int = 2**16) -> Iterator[Any]:
    """Yield some columns of a file (see `field_of`) as record batches of at most `batch_rows` rows.

    Raises
    ------
    ValueError
        As in `open_parquet`; and if the file is damaged, with the row.
    """
    yield from _batches(url, open_parquet(url, columns), columns, batch_rows)


def read_vectors(
    url: str, column: str, dim: int, others: Sequence[str], batch_rows: int
) -> Iterator[tuple[Any, Array | Any, bool]]:
    """Yield record batches of some columns, the vectors of another column in the same rows, and if these are finite.

    They are (n, dim) float32, in memory that the batch after the next one overwrites. After the first batch that
    `parquet_pages` cannot decode, and for dim = 0, they are the columns that pyarrow reads.

    Raises
    ------
    ValueError
        As in `read_batches`.
    """
    import pyarrow as pa

    from .parquet_pages import Unsupported, VectorReader

    file, source = open_with_file(url, [*others, column])
    window, ahead = (REMOTE_WINDOW, AHEAD) if filesystem.is_remote(url) else (LOCAL_WINDOW, 0)
    memory = [np.empty((0, dim), np.float32)] * 2  # reused, because the kernel zeroes new memory, which takes long
    done = 0
    try:
        with closing(VectorReader(file.schema, source, column, dim, window, ahead)) as reader:
            for batch in file.iter_batches(batch_rows, columns=others):
                if len(memory[done % 2]) < len(batch):
                    memory[done % 2] = np.empty((len(batch), dim), np.float32)
                x = memory[done % 2][: len(batch)]
                finite = reader.read(x)
                yield named(batch, others), x, finite
                done += 1
        return
    except (Unsupported, pa.ArrowException):
        pass  # pyarrow reads the rest, or raises the error
    except OSError as error:
        if _from_store(error):
            raise
    for batch in islice(_batches(url, file, [*others, column], batch_rows), done, None):
        yield batch.select(others), batch[column], False  # not checked


def _batches(url: str, file: Any, columns: Sequence[str], batch_rows: int) -> Iterator[Any]:
    row = 0
    with damaged(url, lambda: row):
        for batch in file.iter_batches(batch_rows, columns=columns):
            yield named(batch, columns)
            row += len(batch)


@contextmanager
def foreign(url: str, expected: str) -> Iterator[None]:
    """Raise ValueError if the block fails because the file is not what is expected, such as "a Parquet file"."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if _from_store(error):
            raise
        raise ValueError(f"{url} is not {expected}: {_first_line(error)}") from None


@contextmanager
def damaged(url: str, row: Callable[[], int]) -> Iterator[None]:
    """Raise ValueError, with the number of rows that were read, if the block cannot read on."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if _from_store(error):
            raise
        raise ValueError(f"{url} is damaged after row {row()}: {_first_line(error)}") from None


def read_table(url: str, columns: Sequence[str] | None = None) -> Any:
    """Return a small file of our own, or some of its columns, as an Arrow table."""
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(filesystem.read_bytes(url)), columns=columns)


def to_bytes(table: Any, **options: Any) -> bytes:
    """Return an Arrow table as the content of a Parquet file. Options are those of pyarrow.parquet.write_table."""
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table, file, **{"compression": "zstd", **options})
    return file.getvalue()


def _from_store(error: Exception) -> bool:
    """Return whether the store failed. For content that it cannot parse, Arrow raises OSError without an errno."""
    return isinstance(error, OSError) and (error.errno is not None or "AWS Error" in str(error))


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
