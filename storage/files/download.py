"""Download one file whole or not at all: with progress, resumed where it broke off, checked before it gets its name."""

from __future__ import annotations

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
from ftplib import FTP, error_perm, error_reply, error_temp  # TEXMEX is served by FTP alone
from pathlib import Path
from typing import IO, NamedTuple

log = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]  # bytes there, bytes in all (None: the server does not say)

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte
WAITS = (1.0, 4.0, 16.0)  # seconds before each retry that follows a try without progress
AGENT = {"User-Agent": "hashkiln", "Accept-Encoding": "identity"}  # ann-benchmarks.com refuses urllib's own name
BUSY = {408, 425, 429, 500, 502, 503, 504}
BROKEN = (urllib.error.URLError, http.client.HTTPException, error_temp, error_reply, ConnectionError, TimeoutError)


class _Answer(NamedTuple):
    stream: IO[bytes]
    start: int  # the byte of the file that the stream begins with
    total: int | None  # bytes of the whole file
    version: str  # what tells this version of the file from another one; empty where the server does not say


def download(
    url: str,
    target: Path,
    size: int | None = None,
    checksum: str | None = None,
    progress: Progress | None = None,
    waits: Sequence[float] = WAITS,
) -> None:
    """Bring url (http, https or ftp) to target; size in bytes, checksum as "md5:<hex>" or "sha256:<hex>".

    Bytes arrive in <target>.part, and a later call goes on from there if the server still has the same version.
    Without a checksum the first download records its sha256 in <target>.sha256, and later ones must match it.
    Raises ValueError for another scheme, size or checksum, OSError where the server does not give the file.
    """
    if urllib.parse.urlsplit(url).scheme not in _OPEN:
        raise ValueError(f"expected a URL with one of {', '.join(_OPEN)}, found {url}")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _beside(target, ".part")
    with _locked(part) as file:
        _transfer_with_retries(url, file, _beside(target, ".part.version"), size, progress, waits)
        os.fsync(file.fileno())
        _publish(url, part, target, size, checksum)


def digest(path: Path, algorithm: str) -> str:
    """The hex digest of a file; algorithm is a name of hashlib's."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def recorded(target: Path) -> str | None:
    """The checksum that the first download of target recorded, or None."""
    note = _beside(target, ".sha256")
    return "sha256:" + note.read_text().split()[0] if note.exists() else None


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """The open .part file, which no other process writes meanwhile."""
    with open(part, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = part.exists() and os.path.samestat(os.fstat(file.fileno()), part.stat())
        except BlockingIOError:
            ours = False
        if not ours:
            raise OSError(f"{part}: another process is downloading this file; wait for it, then try again")
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                part.unlink(missing_ok=True)


def _publish(url: str, part: Path, target: Path, size: int | None, checksum: str | None) -> None:
    expected = checksum or recorded(target)
    algorithm = expected.split(":")[0] if expected else "sha256"
    found = f"{algorithm}:{digest(part, algorithm)}"
    length = part.stat().st_size
    if (size is not None and length != size) or (expected and found != expected):
        part.unlink()
        _beside(target, ".part.version").unlink(missing_ok=True)
        raise ValueError(
            f"{url}: expected {size or length} bytes with {expected or 'any checksum'}, "
            f"found {length} with {found}; removed"
        )
    if expected is None:
        _beside(target, ".sha256").write_text(f"{found.split(':')[1]}  {target.name}\n")
        log.info("%s: unverified, no checksum is published; recorded %s", target, found)
    os.replace(part, target)
    _beside(target, ".part.version").unlink(missing_ok=True)


def _transfer_with_retries(
    url: str, file: IO[bytes], note: Path, size: int | None, progress: Progress | None, waits: Sequence[float]
) -> None:
    furthest = os.fstat(file.fileno()).st_size
    failures = 0
    while True:
        try:
            return _transfer(url, file, note, size, progress)
        except BROKEN as error:
            length = os.fstat(file.fileno()).st_size
            failures = 0 if length > furthest else failures + 1
            furthest = max(furthest, length)
            if failures > len(waits) or (isinstance(error, urllib.error.HTTPError) and error.code not in BUSY):
                raise OSError(f"{url}: expected the file, found: {_reason(error, url)}") from None
            log.info("%s: %s; trying again", url, _reason(error, url))
            time.sleep(waits[max(0, failures - 1)] if waits else 0)
        except error_perm as error:
            raise OSError(f"{url}: expected the file, found: {error}") from None


def _reason(error: BaseException, url: str) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"{urllib.parse.urlsplit(url).hostname} cannot be reached: {error.reason}"
    return str(error) or type(error).__name__


def _transfer(url: str, file: IO[bytes], note: Path, size: int | None, progress: Progress | None) -> None:
    """One try: append to file, or start it anew where the server has another version or cannot resume."""
    have = os.fstat(file.fileno()).st_size
    known = note.read_text() if have and note.exists() else ""
    with _OPEN[urllib.parse.urlsplit(url).scheme](url, have if known else 0, known) as answer:
        done, total = answer.start, answer.total
        if None not in (size, total) and size != total:
            raise ValueError(f"{url}: expected {size} bytes, found that the server offers {total}")
        file.truncate(done)
        note.write_text(answer.version)
        while chunk := answer.stream.read(CHUNK):
            file.write(chunk)
            file.flush()
            done += len(chunk)
            if progress:
                progress(done, total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection closed after {done} of {total} bytes")


@contextmanager
def _http(url: str, have: int, version: str) -> Iterator[_Answer]:
    resume = {"Range": f"bytes={have}-", "If-Range": version} if have else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=AGENT | resume), timeout=TIMEOUT) as response:  # noqa: S310
            tag, length = response.headers.get("ETag", ""), response.headers.get("Content-Length")
            version = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
            start = 0
            if response.status == 206:
                start = _range_start(response.headers.get("Content-Range", ""), have)
            yield _Answer(response, start, start + int(length) if length else None, version)
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 416 or error.headers.get("Content-Range") != f"bytes */{have}":
                raise
            yield _Answer(io.BytesIO(), have, have, version)  # the last try had brought the whole file


def _range_start(content_range: str, have: int) -> int:
    if not (found := re.match(r"bytes (\d+)-", content_range)) or int(found[1]) != have:
        raise ConnectionError(f"asked for the bytes from {have} on, the server sent {content_range or 'others'}")
    return have


@contextmanager
def _ftp(url: str, have: int, version: str) -> Iterator[_Answer]:
    parts = urllib.parse.urlsplit(url)
    path = urllib.parse.unquote(parts.path)
    try:
        with FTP(timeout=TIMEOUT) as ftp:  # noqa: S321
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
                yield _Answer(stream, start, total, now)
    except EOFError:
        raise ConnectionError("the server closed the connection") from None


_OPEN: dict[str, Callable[[str, int, str], AbstractContextManager[_Answer]]] = {
    "https": _http,
    "http": _http,
    "ftp": _ftp,
}
