"""Files by URL (a path, file://, s3://): listed, read, and written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from .s3_errors import telling, told


class Entry(NamedTuple):
    """A file as a listing shows it."""

    url: str
    size: int  # bytes
    version: str  # differs whenever the content does: size and mtime_ns, or size and ETag


class Stored(NamedTuple):
    """A file as its store knows it."""

    url: str
    size: int  # bytes
    modified: float  # when it was written, by the clock of its store: seconds of the epoch


class Upload(NamedTuple):
    """A multipart upload that was begun and never ended: it is paid for, and in no listing."""

    url: str
    token: str
    begun: float


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


@telling("list")
def listing(url: str, suffix: str = "") -> list[Entry]:
    """All files below a folder (or the one file), by URL, asked anew each time. FileNotFoundError if nothing is there.

    Names that begin with a dot or an underscore are not data, by the custom of Hive, Spark and Parquet.
    """
    fs, path = _open(url)
    found = fs.find(path, detail=True)
    root, scheme = path.rstrip("/"), _scheme(url)
    names = [name for name in found if not _hidden(name[len(root) :]) and name.endswith(suffix)]
    if not names:
        raise FileNotFoundError(f"expected files *{suffix} at {url}, found none")
    return [Entry(scheme + name, int(found[name]["size"]), _version(found[name])) for name in sorted(names)]


@telling("list")
def inventory(url: str) -> list[Stored]:
    """All files below a folder, hidden ones too, but no marks of folders; none where there is no folder."""
    fs, path = _open(url)
    found = sorted(fs.find(path, detail=True).items())
    return [_stored(_scheme(url) + name, info) for name, info in found if not name.endswith("/")]


@telling("read")
def stored(url: str) -> Stored:
    """One file. Raises FileNotFoundError where there is none."""
    fs, path = _open(url)
    return _stored(url, fs.info(path))


@telling("list")
def uploads(url: str) -> list[Upload]:
    """The multipart uploads below an S3 folder that are open; none elsewhere."""
    if not _scheme(url):
        return []
    fs, path = _open(url)
    bucket, _, prefix = f"{path.rstrip('/')}/".partition("/")
    found: list[Upload] = []
    more: dict[str, str] = {}
    while True:
        answer = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **more)
        found += [
            Upload(f"s3://{bucket}/{one['Key']}", one["UploadId"], one["Initiated"].timestamp())
            for one in answer.get("Uploads", [])
        ]
        if not answer.get("IsTruncated"):
            return found
        more = {"KeyMarker": answer["NextKeyMarker"], "UploadIdMarker": answer["NextUploadIdMarker"]}


def abort(upload: Upload) -> None:
    """End an upload, and free what it holds."""
    fs, path = _open(upload.url)
    bucket, _, key = path.partition("/")
    fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.token)


@telling("read")
def stat(url: str) -> Entry:
    """One file. Raises FileNotFoundError where there is none."""
    fs, path = _open(url)
    info = fs.info(path)
    return Entry(url, int(info["size"]), _version(info))


@telling("read")
def exists(url: str) -> bool:
    fs, path = _open(url)
    try:
        return bool(fs.info(path)["type"] == "file")
    except FileNotFoundError as error:
        if "bucket" in str(error):  # where nothing can be is another mistake
            raise
        return False


def touch(url: str) -> bool:
    """Whether there is a file. It is then as young as one that was written now, if we may write it."""
    if not exists(url):
        return False
    fs, path = _open(url)
    with suppress(OSError):
        if not _scheme(url):
            os.utime(path)
            return True
        bucket, _, key = path.partition("/")  # S3 knows no other way than a copy onto itself
        fs.call_s3("copy_object", Bucket=bucket, Key=key, CopySource=path, MetadataDirective="REPLACE")
    return True


@telling("read")
def read_bytes(url: str) -> bytes:
    """A whole small file. Raises FileNotFoundError where there is none."""
    fs, path = _open(url)
    content: bytes = fs.cat_file(path)
    return content


def write_bytes(url: str, content: bytes) -> None:
    """A whole small file, replacing what is there in one step."""
    with create(url) as file:
        file.write(content)


@contextmanager
def create(url: str) -> Iterator[IO[bytes]]:
    """A file to write. It appears under its name, whole and durable, when the block ends; never if the block fails."""
    if _scheme(url):
        fs, path = _open(url)
        with told("write", url):
            file = fs.open(path, "wb", autocommit=False)
        try:
            yield file
            with told("write", url):
                file.close()
        except BaseException:
            try:
                file.discard()
            finally:
                file.closed = True  # or else its finalizer would send what is left of it
            raise
        with told("write", url):
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


@telling("write")
def create_exclusive(url: str, content: bytes) -> bool:
    """Write a small file unless one of that name exists: whether it now holds this content.

    Of any number of writers of different contents, at most one gets True.
    """
    if _scheme(url):
        fs, path = _open(url)
        try:
            file = fs.open(path, "xb")
            try:
                file.write(content)
                file.close()
            finally:
                file.closed = True  # or else, after an error, its finalizer would try again
        except PermissionError:
            raise
        except OSError:  # s3fs gives a lost race one of several names
            if exists(url):
                return (
                    read_bytes(url) == content
                )  # the answer to a write that was done may be lost, and the next one fail
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
        return target.read_bytes() == content
    finally:
        attempt.unlink(missing_ok=True)
    _fsync_folder(target.parent)
    return True


@telling("remove")
def remove(url: str) -> None:
    """Delete one file. Raises FileNotFoundError where there is none."""
    fs, path = _open(url)
    fs.rm_file(path)


def arrow(url: str) -> tuple[Any, str]:
    """(pyarrow filesystem, path): what Parquet is read through, faster than fsspec on S3."""
    import pyarrow.fs as pafs

    if not _scheme(url):
        return pafs.LocalFileSystem(), str(_local(url))
    from . import s3

    return s3.arrow(), url.removeprefix("s3://")


def shows(folder: str, url: str) -> bool:
    """Whether a listing of the folder would show what is at a URL, or below it."""
    folder, url = (absolute(u) if _scheme(u) else os.path.realpath(_local(u)) for u in (folder, url))
    return f"{url}/".startswith(f"{folder}/") and not _hidden(url[len(folder) :])


def _hidden(path: str) -> bool:
    return any(name[:1] in "._" for name in path.split("/") if name)


def _scheme(url: str) -> str:
    """`s3://` and the like, or nothing for the local disk."""
    head, separator, _ = url.partition("://")
    return "" if not separator or head == "file" else head + separator


def _local(url: str) -> Path:
    return Path(url.removeprefix("file://")).expanduser().absolute()


def _open(url: str) -> tuple[Any, str]:
    scheme = _scheme(url)
    if not scheme:
        import fsspec

        return fsspec.filesystem("file"), str(_local(url))
    if scheme != "s3://":
        raise ValueError(f"expected a path, file:// or s3:// URL, found {url}")
    from . import s3

    return s3.fsspec(), url.removeprefix(scheme)


def _version(info: dict[str, Any]) -> str:
    if "ETag" in info:
        return f"{info['size']}-{info['ETag'].strip(chr(34))}"
    return f"{info['size']}-{os.stat(info['name']).st_mtime_ns}"


def _stored(url: str, info: dict[str, Any]) -> Stored:
    modified = info["LastModified"].timestamp() if "LastModified" in info else info["mtime"]
    return Stored(url, int(info["size"]), float(modified))


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
