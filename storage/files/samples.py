"""WebDataset shards: .tar files in which consecutive members with the same name before the first dot are one sample.

The columns of a sample: `__key__`, its name; `vector` (npy), `image` (jpg, png and the like), `text` (txt); any other
member by what follows the first dot of its name: integers (cls), bytes for others, and the fields of json by a dotted
path. Source: https://github.com/webdataset/webdataset.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import numpy as np

from . import filesystem

KEY = "__key__"
PICTURES = ("jpg", "jpeg", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm")
COLUMNS = {"npy": "vector", "txt": "text", **dict.fromkeys(PICTURES, "image")}
BATCH_BYTES = 2**25  # of members in a batch
Member = tuple[str, bytes]  # name, for messages, and content


def schema(url: str) -> Any:
    """Return the Arrow schema of a file, from its first sample. Raises ValueError if it is not an uncompressed tar."""
    import pyarrow as pa

    first = next(_samples(url, lambda column: True), None)
    if first is None:
        raise ValueError(f"expected members such as 0001.npy or 0001.jpg, found none in {url}")
    _, members = first
    return pa.schema([(KEY, pa.string()), *((name, _array([m], name, url).type) for name, m in members.items())])


def count_rows(url: str) -> int:
    """Return the number of samples, from the headers of all members."""
    return _count_rows(url, filesystem.stat(url).version)


@lru_cache(maxsize=2**12)
def _count_rows(url: str, version: str) -> int:
    return sum(1 for _ in _samples(url, lambda column: False))


def read_batches(url: str, columns: Sequence[str], batch_rows: int) -> Iterator[Any]:
    """Yield some columns as record batches of at most `batch_rows` rows; a sample without the member has null.

    Raises ValueError, with the member, for one that cannot be decoded, and where the file is damaged.
    """
    import pyarrow as pa

    members = [column.partition(".")[0] if column.startswith("json.") else column for column in columns]
    rows: list[tuple[str, dict[str, Member]]] = []

    def batch() -> Any:
        arrays = [
            pa.array([key for key, _ in rows], pa.string())
            if column == KEY
            else _array([found.get(member) for _, found in rows], column, url)
            for column, member in zip(columns, members, strict=True)
        ]
        return pa.record_batch(arrays, names=list(columns))

    size = 0
    for sample in _samples(url, set(members).__contains__):
        rows.append(sample)
        size += sum(len(content) for _, content in sample[1].values())
        if len(rows) == batch_rows or size > BATCH_BYTES:
            yield batch()
            rows.clear()
            size = 0
    if rows:
        yield batch()


def _samples(url: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Yield the key of each sample, and the wanted members by column."""
    key, members = None, dict[str, Member]()
    with _opened(url) as archive:
        for entry in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps all headers
            folder, slash, name = entry.name.removeprefix("./").rpartition("/")
            stem, dot, extension = name.partition(".")
            if not entry.isreg() or not stem or not dot:
                continue
            if folder + slash + stem != key:
                if key is not None:
                    yield key, members
                key, members = folder + slash + stem, {}
            column = COLUMNS.get(extension.lower(), extension.lower())
            if column in members:
                found = f"{members[column][0]} and {entry.name}"
                raise ValueError(f"{url}: expected one {column} in sample {key}, found {found}")
            content = archive.extractfile(entry) if wanted(column) else None
            members[column] = (entry.name, content.read() if content else b"")
    if key is not None:
        yield key, members


@contextmanager
def _opened(url: str) -> Iterator[tarfile.TarFile]:
    import pyarrow.fs as pafs

    fs, path = filesystem.arrow(url)
    is_local = isinstance(fs, pafs.LocalFileSystem)  # where members that are not read can be skipped
    try:
        with (
            fs.open_input_file(path) if is_local else fs.open_input_stream(path) as source,
            tarfile.open(fileobj=source, mode="r:" if is_local else "r|") as archive,
        ):
            if filesystem.stat(url).size % tarfile.BLOCKSIZE:  # tarfile ends at a part of a header
                raise EOFError("a truncated one")
            yield archive
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{url}: expected a whole .tar file without compression, found {error}") from None


def _array(members: Sequence[Member | None], column: str, url: str) -> Any:
    """Return members as an Arrow array of the type of their column."""
    import pyarrow as pa

    decode, kind = _decoder(column)
    values = []
    for member in members:
        try:
            values.append(None if member is None else decode(member[1]))
        except (ValueError, EOFError, KeyError, TypeError) as error:
            raise ValueError(f"{url}: expected {column} in member {member and member[0]}, found {error}") from None
    try:
        array = pa.array(values, kind)
        return array.cast(pa.list_(pa.float32())) if _is_vector(column) and array.type == pa.null() else array
    except pa.ArrowException as error:
        raise ValueError(f"{url}: expected values of one type as {column}, found {error}") from None


def _is_vector(column: str) -> bool:
    return column.rpartition(".")[2] in ("vector", "npy")


def _decoder(column: str) -> tuple[Callable[[bytes], Any], Any]:
    """Return a decoder for the members of a column, and their Arrow type; None to infer it from the values."""
    import pyarrow as pa

    if column == "json" or column.startswith("json."):
        return partial(_field, path=column.split(".")[1:]), None
    if _is_vector(column):
        return _vector, None
    suffix = column.rpartition(".")[2]
    if suffix == "cls":
        return int, pa.int64()
    return (bytes.decode, pa.string()) if suffix in ("text", "txt") else (bytes, pa.binary())


def _field(content: bytes, path: Sequence[str]) -> Any:
    """Return the value at a path of names in a JSON document; None where there is no such field."""
    value = json.loads(content)
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _vector(content: bytes) -> Any:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError):  # their messages are about pickles
        raise ValueError("something else than an .npy array of numbers") from None
    if not isinstance(array, np.ndarray) or array.ndim != 1 or array.dtype.kind not in "biuf":
        found = f"{array.shape} {array.dtype}" if isinstance(array, np.ndarray) else "an archive of several arrays"
        raise ValueError(f"{found} instead of a vector (d,) of numbers")
    return array.astype(array.dtype.newbyteorder("="))
