"""Files by URL (a path, file:// or that of a store): list, read, and write atomically."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from hashing.mapreduce import Array

from . import stores
from .store_errors import explain_store_errors, explains_store_errors, find_bucket
from .stores import scheme as _scheme


class FileVersion(NamedTuple):
    """A file and the version of its content, to notice changes."""

    url: str
    size: int  # bytes
    version: str  # differs whenever the content does: size and mtime_ns, ETag or generation


class StoredFile(NamedTuple):
    """A file and its age, for garbage collection."""

    url: str
    size: int  # bytes
    modified: float  # by the clock of the store, in seconds since the epoch


def join(url: str, *names: str) -> str:
    """Return the URL of a file below a folder.

    >>> join("s3://bucket/warehouse/", "models", "fits")
    's3://bucket/warehouse/models/fits'
    """
    return "/".join([url.rstrip("/"), *names])


def absolute(url: str) -> str:
    """Return a URL that does not depend on the working directory."""
    return url.rstrip("/") if _scheme(url) else str(_local(url))


def relative_path(folder: str, url: str) -> str:
    """Return the path of a file below a folder; its name if `folder` is the file itself."""
    path = url.removeprefix(folder if url.startswith(folder) else absolute(folder)).lstrip("/")
    return path or url.rsplit("/", 1)[-1]


@explains_store_errors("list")
def listing(url: str, suffix: str = "") -> list[FileVersion]:
    """Return the data files below a folder, or the file itself, sorted by URL. Listings are not cached.

    Names that begin with a dot or an underscore are not data, as in Hive, Spark and Parquet. Links to folders are
    followed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
    fs, path = _open(url)
    infos = _find(fs, path)
    root = path.rstrip("/")
    names = [name for name in infos if not _hidden(name[len(root) :]) and name.lower().endswith(suffix)]
    if not (names or suffix or infos or fs.exists(path)):
        raise FileNotFoundError(f"no such file or folder: {url}")
    if not names:
        hint = "" if suffix or not infos else ": names that begin with . or _ are not data"
        raise FileNotFoundError(f"no {suffix or 'data'} files in {url}{hint}")
    versions = ((_url(url, name), infos[name]) for name in sorted(names))
    return [FileVersion(found, int(info["size"]), _version(found, info)) for found, info in versions]


@explains_store_errors("list")
def inventory(url: str, depth: int | None = None) -> list[StoredFile]:
    """Return all files below a folder, sorted by URL; empty if the folder does not exist.

    This includes hidden files, but not the folder markers of stores. `depth` limits the levels below the folder: 1
    means the files in the folder itself.
    """
    fs, path = _open(url)
    infos = sorted(fs.find(path, maxdepth=depth, detail=True).items())
    files = [(name, info) for name, info in infos if not name.endswith("/")]
    return [StoredFile(_url(url, name), int(info["size"]), _modified(url, info)) for name, info in files]


@explains_store_errors("read")
def stat(url: str) -> FileVersion:
    """Return size and version of a file. Raises FileNotFoundError if it does not exist."""
    fs, path = _open(url)
    info = fs.info(path)
    return FileVersion(url, int(info["size"]), _version(url, info))


@explains_store_errors("read")
def modification_time(url: str) -> float:
    """Return when a file was written, in seconds since the epoch. Raises FileNotFoundError if it does not exist."""
    fs, path = _open(url)
    return _modified(url, fs.info(path))


@explains_store_errors("read")
def exists(url: str) -> bool:
    """Return whether a file exists; False for a folder. Raises FileNotFoundError if the bucket does not exist."""
    fs, path = _open(url)
    try:
        return bool(fs.info(path)["type"] == "file")
    except FileNotFoundError:
        find_bucket(url)
        return False


def touch(url: str) -> bool:
    """Return whether a file exists, and update its modification time if permitted."""
    if not exists(url):
        return False
    fs, path = _open(url)
    with suppress(OSError), explain_store_errors("write", url):
        if where := stores.store(url):
            where.touch(fs, path)
        else:
            os.utime(path)
    return True


@explains_store_errors("read")
def read_bytes(url: str) -> bytes:
    """Return the content of a small file. Raises FileNotFoundError if it does not exist."""
    fs, path = _open(url)
    content: bytes = fs.cat_file(path)
    return content


def write_bytes(url: str, content: bytes) -> None:
    """Write a small file, atomically replacing an existing one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_bytes(url := join(folder, "new", "file"), b"content")
    ...     read_bytes(url)
    b'content'
    """
    with create(url) as file:
        file.write(content)


@explains_store_errors("write")
def check_writable(url: str) -> None:
    """Raise OSError if a file cannot be written at a URL or path. Creates no file."""
    if where := stores.store(url):
        where.check_writable(*_open(url))
    elif not _is_stream(target := _local(url)):
        target = target.resolve()  # of a link, what `create` replaces
        if target.is_dir():
            raise IsADirectoryError(f"{target} is a folder: pass the name of a file to write")
        above = next(parent for parent in target.parents if parent.exists())
        try:
            tempfile.TemporaryFile(dir=above).close()  # has no name
        except OSError as error:
            raise PermissionError(f"cannot write to {above}: {error.strerror}") from None


@contextmanager
def create(url: str) -> Iterator[IO[bytes]]:
    """Open a file for writing. When the block ends, it appears under its name, complete and durable.

    If the block fails, no file appears, and an existing file is kept. A device or a pipe, such as /dev/stdout, is
    written to as it is.
    """
    if _scheme(url):
        fs, path = _open(url)
        with explain_store_errors("write", url):
            file = fs.open(path, "wb", autocommit=False)
        try:
            yield file
            with explain_store_errors("write", url):
                file.close()
        except BaseException:
            try:
                file.discard()
            finally:
                file.closed = True  # otherwise its finalizer would upload the rest
            raise
        with explain_store_errors("write", url):
            file.commit()
        return
    target = _local(url)
    if _is_stream(target):
        with target.open("wb") as file:
            yield file
        return
    target = target.resolve()  # a link stays a link
    with _temporary(target) as temporary:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _fsync_folder(target.parent)


@explains_store_errors("write")
def create_exclusive(url: str, content: bytes) -> bool:
    """Write a small file unless one of this name exists, and return whether the file now holds `content`.

    If several writers with different contents race, at most one of them gets True.
    """
    if _scheme(url):
        fs, path = _open(url)
        try:
            fs.pipe_file(path, content, mode="create")
        except PermissionError:
            raise
        except OSError:  # s3fs raises one of several errors when it loses the race
            if exists(url):
                # the response to a successful write can be lost; the retry then finds our own file
                return read_bytes(url) == content
            raise
        return True
    target = _local(url)
    with _temporary(target) as temporary:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, target)  # unlike open("xb"), never shows an incomplete file
        except FileExistsError:
            return target.read_bytes() == content
        _fsync_folder(target.parent)
    return True


@explains_store_errors("remove")
def remove(url: str) -> None:
    """Delete a file. Raises FileNotFoundError if it does not exist."""
    fs, path = _open(url)
    fs.rm_file(path)


@explains_store_errors("remove")
def remove_folder(url: str) -> None:
    """Delete a folder with everything in it. Raises FileNotFoundError if it does not exist."""
    fs, path = _open(url)
    fs.rm(path, recursive=True)


def arrow(url: str) -> tuple[Any, str]:
    """Return (pyarrow filesystem, path) of a URL. It reads Parquet from a store faster than fsspec."""
    import pyarrow.fs as pafs

    if where := stores.store(url):
        return where.arrow_filesystem(url), stores.path(url)
    return pafs.LocalFileSystem(), str(_local(url))


def listing_includes(folder: str, url: str) -> bool:
    """Return whether `listing` of the folder would include the file at a URL, or files below it."""
    folder, url = (absolute(u) if _scheme(u) else os.path.realpath(_local(u)) for u in (folder, url))
    return f"{url}/".startswith(f"{folder}/") and not _hidden(url[len(folder) :])


@explains_store_errors("read")
def map_file(url: str) -> Array:
    """Return the content of a file, (bytes,) uint8, mapped into memory. It keeps no file open.

    A file in a remote store is first copied to a temporary file. Raises FileNotFoundError if there is none.
    """
    import pyarrow as pa

    fs, path = arrow(url)
    if is_remote(url):
        with tempfile.NamedTemporaryFile() as copy, fs.open_input_stream(path) as source:
            shutil.copyfileobj(source, copy, 2**24)
            copy.flush()
            return map_file(copy.name)
    with pa.memory_map(path) as file:
        return np.frombuffer(file.read_buffer(), np.uint8)


def is_remote(url: str) -> bool:
    """Return whether a file is read over a network, so that reading ahead in a thread pays off."""
    return bool(_scheme(url))


def _find(fs: Any, path: str, above: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Return the files below a folder, also in folders that it has links to. `above` are folders with such links."""
    infos: dict[str, dict[str, Any]] = fs.find(path, detail=True)
    links = [name for name, info in infos.items() if info.get("islink") and not _hidden(name[len(path) :])]
    for link in filter(os.path.isdir, links):
        del infos[link]
        chain, target = (*above, os.path.realpath(os.path.dirname(link))), os.path.realpath(link)
        if any(f"{folder}/".startswith(f"{target}/") for folder in chain):
            raise ValueError(f"{link} is a link to a folder above it: remove the link")
        infos |= _find(fs, link, chain)
    return infos


def _hidden(path: str) -> bool:
    return any(name[:1] in "._" for name in path.split("/") if name)


def _local(url: str) -> Path:
    return Path(url.removeprefix("file://")).expanduser().absolute()


def _is_stream(target: Path) -> bool:
    """Return whether a path is a device or a pipe: root could replace it by a file, for all programs."""
    return target.is_char_device() or target.is_block_device() or target.is_fifo()


def _open(url: str) -> tuple[Any, str]:
    """Return (fsspec filesystem, path) of a URL."""
    if where := stores.store(url):
        return where.fsspec_filesystem(url), stores.path(url)
    import fsspec

    return fsspec.filesystem("file"), str(_local(url))


def _url(url: str, path: str) -> str:
    """Return the URL of a path on the same filesystem."""
    return stores.same_bucket_url(url, path) if _scheme(url) else path


def _version(url: str, info: dict[str, Any]) -> str:
    where = stores.store(url)
    version = str(info[where.VERSION]).strip('"') if where else os.stat(info["name"]).st_mtime_ns
    return f"{info['size']}-{version}"


def _modified(url: str, info: dict[str, Any]) -> float:
    where = stores.store(url)
    return float(info[where.MODIFIED].timestamp() if where else info["mtime"])


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Yield a hidden path next to the target. A file there is deleted when the block ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
