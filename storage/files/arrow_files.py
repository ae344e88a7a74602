"""Arrow IPC files, streams or files with a footer, such as Hugging Face datasets on disk; read batch by batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from . import filesystem, parquet

MAGIC = b"ARROW1"  # of files with a footer


def schema(url: str) -> Any:
    """Return the Arrow schema of a file. Raises ValueError if it is not an Arrow file."""
    with _opened(url) as reader:
        return reader.schema


def count_rows(url: str) -> int:
    """Return the number of rows, from the headers of all batches: a stream has no footer."""
    return _count_rows(url, filesystem.stat(url).version)


@lru_cache(maxsize=2**12)
def _count_rows(url: str, version: str) -> int:
    rows = 0
    with _opened(url) as reader, parquet.damaged(url, lambda: rows):
        for batch in _record_batches(reader):
            rows += len(batch)
    return rows


def read_batches(url: str, columns: Sequence[str], batch_rows: int) -> Iterator[Any]:
    """Yield some columns (see `parquet.field_of`) as record batches of at most `batch_rows` rows.

    Raises ValueError where the file is damaged, with the row, and if it lacks a column.
    """
    with _opened(url) as reader:
        parquet.check_columns(url, reader.schema, columns)
        row = 0
        with parquet.damaged(url, lambda: row):
            for batch in _record_batches(reader):
                for start in range(0, len(batch), batch_rows):
                    yield parquet.named(batch.slice(start, batch_rows), columns)
                row += len(batch)


@contextmanager
def _opened(url: str) -> Iterator[Any]:
    """Open a file that is mapped into memory, or read from a store."""
    import pyarrow as pa
    import pyarrow.fs as pafs

    fs, path = filesystem.arrow(url)
    is_local = isinstance(fs, pafs.LocalFileSystem)
    with pa.memory_map(path) if is_local else fs.open_input_file(path) as source:
        with parquet.foreign(url, "an Arrow file"):
            has_footer = source.read(len(MAGIC)) == MAGIC
            source.seek(0)
            reader = pa.ipc.open_file(source) if has_footer else pa.ipc.open_stream(source)
        yield reader


def _record_batches(reader: Any) -> Iterator[Any]:
    if hasattr(reader, "num_record_batches"):
        return (reader.get_batch(i) for i in range(reader.num_record_batches))
    return iter(reader)
