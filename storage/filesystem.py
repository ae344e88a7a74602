"""Files by URL (a path, file://, s3://): listed, read, and written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple


class Entry(NamedTuple):
    """A file as a listing shows it."""

    url: str
    size: int  # bytes
    version: str  # differs whenever the content does: size and mtime_ns, or size and ETag


def join(url: str, *names: str) -> str:
    """The URL of a file below a folder."""
    return "/".join([url.rstrip("/"), *names])


def absolute(url: str) -> str:
    """The URL, whatever the working directory will be."""
    return url.rstrip("/") if _scheme(url) else str(_local(url))


def below(folder: str, url: str) -> str:
    """The path of a file below a folder, or its own name where the folder is the file."""
    path = url.removeprefix(absolute(folder)).lstrip("/")
    return path or url.rsplit("/", 1)[-1]


def listing(url: str, suffix: str = "") -> list[Entry]:
    """All files below a folder (or the one file), by URL, asked anew each time. FileNotFoundError if nothing is there.

    Names that begin with a dot or an underscore are not data, by the custom of Hive, Spark and Parquet.
    """
    fs, path = _open(url)
    found = fs.find(path, detail=True)
    root, scheme = path.rstrip("/"), _scheme(url)
    names = [n for n in found if not any(p[:1] in "._" for p in n[len(root) :].split("/") if p) and n.endswith(suffix)]
    if not names:
        raise FileNotFoundError(f"expected files *{suffix} at {url}, found none")
    return [Entry(scheme + name, int(found[name]["size"]), _version(found[name])) for name in sorted(names)]


def stat(url: str) -> Entry:
    """One file. Raises FileNotFoundError where there is none."""
    fs, path = _open(url)
    info = fs.info(path)
    return Entry(url, int(info["size"]), _version(info))


def exists(url: str) -> bool:
    fs, path = _open(url)
    return bool(fs.isfile(path))


def read(url: str) -> bytes:
    """A whole small file. Raises FileNotFoundError where there is none."""
    fs, path = _open(url)
    content: bytes = fs.cat_file(path)
    return content


def write(url: str, content: bytes) -> None:
    """A whole small file, replacing what is there in one step."""
    with create(url) as file:
        file.write(content)


@contextmanager
def create(url: str) -> Iterator[IO[bytes]]:
    """A file to write. It appears under its name, whole and durable, when the block ends; never if the block fails."""
    if _scheme(url):
        fs, path = _open(url)
        file = fs.open(path, "wb", autocommit=False)
        try:
            yield file
            file.close()
        except BaseException:
            file.discard()
            raise
        file.commit()
        return
    target = _local(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    attempt = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with attempt.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(attempt, target)
        _fsync_folder(target.parent)
    finally:
        attempt.unlink(missing_ok=True)


def create_exclusive(url: str, content: bytes) -> bool:
    """Write a small file unless one of that name exists. Of any number of writers at once, at most one gets True."""
    if _scheme(url):
        fs, path = _open(url)
        try:
            with fs.open(path, "xb") as file:
                file.write(content)
        except OSError:  # s3fs gives a lost race one of several names
            if exists(url):
                return False
            raise
        return True
    target = _local(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    attempt = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        with attempt.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(attempt, target)  # unlike open("xb"), never shows a file that is not yet whole
    except FileExistsError:
        return False
    finally:
        attempt.unlink(missing_ok=True)
    _fsync_folder(target.parent)
    return True


def remove(url: str) -> None:
    """Delete one file. Raises FileNotFoundError where there is none."""
    fs, path = _open(url)
    fs.rm_file(path)


def arrow(url: str) -> tuple[Any, str]:
    """(pyarrow filesystem, path): what Parquet is read through, faster than fsspec on S3."""
    import pyarrow.fs as pafs

    if not _scheme(url):
        return pafs.LocalFileSystem(), str(_local(url))
    return pafs.S3FileSystem(endpoint_override=s3_endpoint()), url.removeprefix("s3://")


def s3_endpoint() -> str | None:
    """The S3 server that the environment names: s3fs reads it by itself, pyarrow and pyiceberg do not."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _scheme(url: str) -> str:
    """`s3://` and the like, or nothing for the local disk."""
    head, separator, _ = url.partition("://")
    return "" if not separator or head == "file" else head + separator


def _local(url: str) -> Path:
    return Path(url.removeprefix("file://")).absolute()


def _open(url: str) -> tuple[Any, str]:
    import fsspec

    scheme = _scheme(url)
    if not scheme:
        return fsspec.filesystem("file"), str(_local(url))
    if scheme != "s3://":
        raise ValueError(f"expected a path, file:// or s3:// URL, found {url}")
    # a cache of listings would hide other writers' files
    return fsspec.filesystem("s3", use_listings_cache=False), url.removeprefix(scheme)


def _version(info: dict[str, Any]) -> str:
    if "ETag" in info:
        return f"{info['size']}-{info['ETag'].strip(chr(34))}"
    return f"{info['size']}-{os.stat(info['name']).st_mtime_ns}"


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
