"""File formats read as blocks of rows: one file a format, bounded memory, bad files refused where they go wrong."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from hashing.mapreduce import Array

BLOCK_BYTES = 4 << 20  # of one block of rows


class FeatureRows(NamedTuple):
    """n consecutive rows as a file holds them."""

    ids: Array  # (n,) int64
    x: Array | list[bytes] | list[str]  # (n, d) float32 | uint8 vectors, n encoded pictures, or n texts
    labels: list[list[int]] | list[list[str]] | None = None  # the labels of each row


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes: ...


@contextmanager
def opened(path: Path, member: str | None = None) -> Iterator[Stream]:
    """The bytes of a plain file, of a .gz, or of one member of a .tar.gz, streamed.

    A member is named by its whole path in the archive or by the end of it. Raises ValueError, also from within, for
    damaged or truncated compression and for a member that is not there.
    """
    try:
        with open(path, "rb") as raw:
            if member is not None:
                with gzip.open(raw) as plain, tarfile.open(fileobj=plain, mode="r|") as archive:
                    yield _member(archive, member, path)
            elif path.suffix == ".gz":
                with gzip.open(raw) as plain:
                    yield plain
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile, tarfile.TarError) as error:
        raise ValueError(
            f"{path}: expected a whole compressed file, found a truncated or damaged one: {error}"
        ) from None


def _member(archive: tarfile.TarFile, member: str, path: Path) -> Stream:
    seen = []
    for entry in archive:
        if f"/{entry.name}".endswith(f"/{member}") and entry.isreg():
            stream = archive.extractfile(entry)
            if stream is not None:
                return stream
        seen.append(entry.name)
    raise ValueError(f"{path}: expected a member {member}, found {', '.join(seen[:10]) or 'an empty archive'}")


def read_exactly(stream: Stream, size: int) -> bytes:
    """size bytes, or fewer at the end of the stream only."""
    parts = []
    while size and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
