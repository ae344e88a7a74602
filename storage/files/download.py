"""Download a file. The download resumes after a broken connection, and is verified before it gets its name."""

import fcntl
import hashlib
import http.client
import io
import logging
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from ftplib import FTP, error_perm, error_reply, error_temp
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]  # bytes received, bytes in total (None if the server does not say)

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte
WAITS = (1.0, 4.0, 16.0)  # seconds before each retry after an attempt without progress
HEADERS = {"User-Agent": "hashkiln", "Accept-Encoding": "identity"}  # ann-benchmarks.com rejects the default of urllib
RETRIED_STATUS = {408, 425, 429, 500, 502, 503, 504}
RETRIED = (urllib.error.URLError, http.client.HTTPException, error_temp, error_reply, ConnectionError, TimeoutError)


class _Response(NamedTuple):
    stream: IO[bytes]
    start: int  # offset in the file of the first byte of the stream
    total: int | None  # bytes of the whole file
    version: str  # ETag or modification time; empty if the server gives none


def download(
    url: str,
    target: Path,
    size: int | None = None,
    checksum: str | None = None,
    progress: Progress | None = None,
    waits: Sequence[float] = WAITS,
) -> None:
    """Download a URL (http, https or ftp) to a file.

    The bytes go to <target>.part first. A later call resumes from there if the server still has the same version.
    Without a checksum, the first download records its SHA-256 in <target>.sha256, and later ones must match it.

    Parameters
    ----------
    size
        Expected bytes.
    checksum
        Expected digest, as "md5:<hex>", "sha256:<hex>" or "git:<hex>".
    progress
        Called with (bytes received, bytes in total or None) after each chunk.
    waits
        Seconds before each retry after an attempt without progress.

    Raises
    ------
    ValueError
        For another scheme, size or checksum. The downloaded bytes are then deleted.
    OSError
        If the server does not send the file, or if another process is downloading it.
    """
    if urllib.parse.urlsplit(url).scheme not in _OPEN:
        raise ValueError(f"expected a URL with one of {', '.join(_OPEN)}, found {url}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _with_suffix(target, ".part")
    with _locked(part) as file:
        _transfer_with_retries(url, file, _with_suffix(target, ".part.version"), size, progress, waits)
        os.fsync(file.fileno())
        _publish(url, part, target, size, checksum)


def file_digest(path: Path, algorithm: str) -> str:
    """Return the hex digest of a file; `algorithm` is a name that hashlib knows, or "git" for that of Git's objects."""
    git = partial(hashlib.sha1, b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, git if algorithm == "git" else algorithm).hexdigest()


def recorded_checksum(target: Path) -> str | None:
    """Return the checksum, "sha256:<hex>", that the first download of `target` recorded, or None."""
    file = _with_suffix(target, ".sha256")
    return "sha256:" + file.read_text().split()[0] if file.exists() else None


def _with_suffix(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """Open and lock the .part file."""
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked = part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat())
        except BlockingIOError:
            locked = False
        if not locked:
            raise OSError(f"{part}: another process is downloading this file; wait for it, then try again")
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                part.unlink(missing_ok=True)


def _publish(url: str, part: Path, target: Path, size: int | None, checksum: str | None) -> None:
    """Verify the .part file and give it its final name; delete it if it is wrong."""
    expected = checksum or recorded_checksum(target)
    algorithm = expected.split(":")[0] if expected else "sha256"
    actual = f"{algorithm}:{file_digest(part, algorithm)}"
    length = part.stat().st_size
    if (size is not None and length != size) or (expected and actual != expected):
        part.unlink()
        _with_suffix(target, ".part.version").unlink(missing_ok=True)
        raise ValueError(
            f"{url}: expected {size or length} bytes with {expected or 'any checksum'}, "
            f"found {length} with {actual}; the download was deleted"
        )
    if expected is None:
        _with_suffix(target, ".sha256").write_text(f"{actual.split(':')[1]}  {target.name}\n")
        logger.info("%s: unverified, as no checksum is published; recorded %s", target, actual)
    os.replace(part, target)
    _with_suffix(target, ".part.version").unlink(missing_ok=True)


def _transfer_with_retries(
    url: str, file: IO[bytes], version_file: Path, size: int | None, progress: Progress | None, waits: Sequence[float]
) -> None:
    furthest = os.fstat(file.fileno()).st_size
    failures = 0
    while True:
        try:
            return _transfer(url, file, version_file, size, progress)
        except RETRIED as error:
            length = os.fstat(file.fileno()).st_size
            failures = 0 if length > furthest else failures + 1
            furthest = max(furthest, length)
            final = isinstance(error, urllib.error.HTTPError) and error.code not in RETRIED_STATUS
            if final or failures > len(waits):
                raise OSError(f"cannot download {url}: {_reason(error, url)}") from None
            logger.info("%s: %s; retrying", url, _reason(error, url))
            time.sleep(waits[max(0, failures - 1)] if waits else 0)
        except error_perm as error:
            raise OSError(f"cannot download {url}: {error}") from None


def _reason(error: BaseException, url: str) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"{urllib.parse.urlsplit(url).hostname} cannot be reached: {error.reason}"
    return str(error) or type(error).__name__


def _transfer(url: str, file: IO[bytes], version_file: Path, size: int | None, progress: Progress | None) -> None:
    """Append to the file; start from the beginning if the server has another version or cannot resume."""
    have = os.fstat(file.fileno()).st_size
    version = version_file.read_text() if have and version_file.exists() else ""
    with _OPEN[urllib.parse.urlsplit(url).scheme](url, have if version else 0, version) as response:
        done, total = response.start, response.total
        if None not in (size, total) and size != total:
            raise ValueError(f"{url}: expected {size} bytes, but the server has {total}")
        file.truncate(done)
        version_file.write_text(response.version)
        while chunk := response.stream.read(CHUNK):
            file.write(chunk)
            file.flush()
            done += len(chunk)
            if progress:
                progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection closed after {done} of {total} bytes")


@contextmanager
def _http(url: str, have: int, version: str) -> Iterator[_Response]:
    resume = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    try:
        request = urllib.request.Request(url, headers=HEADERS | resume)  # noqa: S310  (`download` checks the scheme)
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310  (as above)
            tag, length = response.headers.get("ETag", ""), response.headers.get("Content-Length")
            version = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
            start = 0
            if response.status == 206:
                start = _range_start(response.headers.get("Content-Range", ""), have)
            yield _Response(response, start, start + int(length) if length else None, version)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416 or error.headers.get("Content-Range") != f"bytes */{have}":
                raise
            yield _Response(io.BytesIO(), have, have, version)  # the .part file was complete already


def _range_start(content_range: str, have: int) -> int:
    if not (match := re.match(r"bytes (\d+)-", content_range)) or int(match[1]) != have:
        raise ConnectionError(f"requested the bytes from {have} on, but the server sent {content_range or 'others'}")
    return have


@contextmanager
def _ftp(url: str, have: int, version: str) -> Iterator[_Response]:
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.unquote(parts.path)
    try:
        with FTP(timeout=TIMEOUT) as ftp:  # noqa: S321  (TEXMEX is served by FTP alone)
            ftp.connect(parts.hostname or "", parts.port or 21)
            ftp.login()
            ftp.voidcmd("TYPE I")
            try:
                now = ftp.sendcmd(f"MDTM {path}")
            except error_perm as error:
                if not str(error).startswith("50"):  # 500 and 502: a server without MDTM cannot be resumed
                    raise
                now = ""
            start = have if now == version else 0
            total = ftp.size(path)
            with ftp.transfercmd(f"RETR {path}", rest=start or None) as connection, connection.makefile("rb") as stream:
                yield _Response(stream, start, total, now)
    except EOFError:
        raise ConnectionError("the server closed the connection") from None


_OPEN: dict[str, Callable[[str, int, str], AbstractContextManager[_Response]]] = {
    "https": _http,
    "http": _http,
    "ftp": _ftp,
}
