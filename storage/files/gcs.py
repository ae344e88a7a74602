"""Google Cloud Storage. Its clients find the credentials themselves, for example by GOOGLE_APPLICATION_CREDENTIALS."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientTimeout
from fsspec.asyn import sync
from gcsfs.core import GCSFileSystem, initiate_upload  # the class of the package first asks what kind of bucket it is
from gcsfs.retry import HttpError
from google.auth.exceptions import GoogleAuthError
from pyarrow.fs import GcsFileSystem
from requests.exceptions import RequestException

NAME = "Google Cloud Storage"
ATTEMPTS = GCSFileSystem.retries
VERSION, MODIFIED = "generation", "mtime"
TIMEOUT = 20  # seconds without a byte


def fsspec_filesystem(url: str) -> Any:
    timeout = ClientTimeout(total=None, sock_connect=TIMEOUT, sock_read=TIMEOUT)
    token = "anon" if _emulator() else None
    return GCSFileSystem(token=token, use_listings_cache=False, requests_timeout=timeout)


def arrow_filesystem(url: str) -> Any:
    retries = {"retry_time_limit": timedelta(seconds=ATTEMPTS * TIMEOUT)}
    if not (server := urlsplit(_emulator())).netloc:
        return GcsFileSystem(**retries)
    return GcsFileSystem(anonymous=True, scheme=server.scheme, endpoint_override=server.netloc, **retries)


def catalog_properties() -> dict[str, str]:
    if not _emulator():
        return {}
    # without a token, pyiceberg looks for credentials
    token = {"gcs.oauth2.token": "anonymous", "gcs.oauth2.token-expires-at": str(2**42)}
    return {"gcs.service.host": _emulator(), **token}


def server(url: str) -> str:
    return _emulator() or "Google"


def identity(url: str) -> str:
    return f"GOOGLE_APPLICATION_CREDENTIALS is {os.environ.get('GOOGLE_APPLICATION_CREDENTIALS', 'not set')}"


def status(error: Exception) -> int | None:
    if isinstance(error, HttpError):
        return int(error.code or 0)
    if isinstance(error, OSError) and str(error).startswith("Forbidden: "):
        return 403
    if isinstance(error, GoogleAuthError):
        return 401
    return 0 if isinstance(error, RequestException) else None


def check_writable(fs: Any, path: str) -> None:
    bucket, _, key = path.partition("/")
    fs.call("DELETE", sync(fs.loop, initiate_upload, fs, bucket, key))


def touch(fs: Any, path: str) -> None:
    fs.cp_file(path, path)


def _emulator() -> str:
    """Return the URL of the emulator that the environment names, which needs no credentials; empty without one."""
    server = os.environ.get("STORAGE_EMULATOR_HOST", "")
    return server if not server or "://" in server else f"http://{server}"
