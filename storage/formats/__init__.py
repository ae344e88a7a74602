"""Readers of file formats, one module each: blocks of rows in bounded memory. Errors name the place in the file."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from hashing.mapreduce import Array

BLOCK_BYTES = 4 << 20  # size of a block of rows

# Ids of the first rows of the splits of files without ids.
FIRST_IDS = {"base": 0, "learn": 1 << 40, "query": 1 << 41}
# How the vectors of a dataset are compared. Hamming is for vectors of 0 and 1, where Euclidean distance ranks alike.
Metric = Literal["euclidean", "cosine", "ip", "hamming"]
Kind = Literal["vector", "image", "text"]


class FeatureRows(NamedTuple):
    """n consecutive rows of a file."""

    ids: Array  # (n,) int64
    x: Array | list[bytes] | list[str]  # (n, d) float32 | uint8 vectors, n encoded pictures, or n texts
    labels: list[list[int]] | list[list[str]] | None = None  # labels of each row
    names: list[str] | None = None  # what each row is called in messages, such as the file of a picture
    keys: list[str] | None = None  # stored instead of the ids


class Stream(Protocol):
    """A source of bytes."""

    def read(self, size: int, /) -> bytes: ...


@contextmanager
def open_stream(path: Path, member: str | None = None) -> Iterator[Stream]:
    """Open a plain file, a .gz, or one member of a .tar.gz as a stream of bytes.

    A member is named by its path in the archive, or by the end of that path. Raises ValueError if the member is
    missing and, also while reading, if the compressed data is damaged or truncated.
    """
    try:
        with open(path, "rb") as raw:
            if member is not None:
                with gzip.open(raw) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
                    yield _member(archive, member, path)
            elif path.suffix.lower() == ".gz":
                with gzip.open(raw) as plain:
                    yield plain
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise ValueError(
            f"{path}: expected a whole compressed file, found a truncated or damaged one: {error}"
        ) from None


def _member(archive: tarfile.TarFile, member: str, path: Path) -> Stream:
    names = []
    for entry in archive:
        if f"/{entry.name}".endswith(f"/{member}") and entry.isreg():
            stream = archive.extractfile(entry)
            if stream is not None:
                return stream
        names.append(entry.name)
    raise ValueError(f"{path}: expected a member {member}, found {', '.join(names[:10]) or 'an empty archive'}")


def read_exactly(stream: Stream, size: int) -> bytes:
    """Return `size` bytes, or fewer only at the end of the stream."""
    parts = []
    while size and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
