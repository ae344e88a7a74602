"""Azure Blob Storage and Data Lake Storage, with the account and the credentials in AZURE_STORAGE_*."""

from __future__ import annotations

import math
import os
import uuid
from typing import Any
from urllib.parse import urlsplit

from adlfs import AzureBlobFileSystem
from azure.core.exceptions import AzureError, ClientAuthenticationError
from fsspec.asyn import sync
from pyarrow.fs import AzureFileSystem

NAME = "Azure"
VERSION, MODIFIED = "etag", "last_modified"
ATTEMPTS = 4  # of its clients
TIMEOUT = 20  # seconds without a byte


class FileSystem(AzureBlobFileSystem):  # type: ignore[misc]  # adlfs has no types
    """adlfs, except that `find` respects the depth, and returns the description of a single file as well."""

    async def _find(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        found = await super()._find(path, **options)
        if isinstance(found, list):
            return {name: await self._info(name) for name in found}
        levels = path.rstrip("/").count("/") + (maxdepth or math.inf)
        return {name: info for name, info in found.items() if name.count("/") <= levels}


def fsspec_filesystem(url: str) -> Any:
    timeouts = {"connection_timeout": TIMEOUT, "read_timeout": TIMEOUT}
    return FileSystem(account_name=_account(url), use_listings_cache=False, **timeouts)


def arrow_filesystem(url: str) -> Any:
    """Return pyarrow's filesystem, which does not read the environment itself."""
    connection = _connection()
    names = ("account_key", "sas_token", "client_id", "client_secret", "tenant_id")
    options = {name: os.environ.get(f"AZURE_STORAGE_{name.upper()}") for name in names}
    if connection:
        options = {"account_key": connection.get("AccountKey"), "sas_token": connection.get("SharedAccessSignature")}
    if endpoint := connection.get("BlobEndpoint"):
        parts = urlsplit(endpoint)
        options |= {f"{kind}_storage_authority": parts.netloc for kind in ("blob", "dfs")}
        options |= {f"{kind}_storage_scheme": parts.scheme for kind in ("blob", "dfs")}
    return AzureFileSystem(account_name=_account(url), **options)


def catalog_properties() -> dict[str, str]:
    return {}  # pyiceberg uses adlfs, which reads the environment


def server(url: str) -> str:
    return _connection().get("BlobEndpoint") or f"https://{_account(url)}.blob.core.windows.net"


def identity(url: str) -> str:
    return f"the account is {_account(url)}"


def status(error: Exception) -> int | None:
    cause = error if isinstance(error, AzureError) else error.__cause__
    if isinstance(cause, ClientAuthenticationError):
        return 401
    return getattr(cause, "status_code", None) or 0 if isinstance(cause, AzureError) else None


def check_writable(fs: Any, path: str) -> None:
    container, _, name = path.partition("/")

    async def stage() -> None:
        async with fs.service_client.get_blob_client(container, name) as blob:
            await blob.stage_block(uuid.uuid4().hex, b" ")  # as long as the ids of adlfs, which must be of one length

    sync(fs.loop, stage)


def touch(fs: Any, path: str) -> None:
    fs.setxattrs(path, is_directory="false")  # the metadata that adlfs writes


def _account(url: str) -> str:
    """Return the account of abfss://container@account.dfs.core.windows.net/path, or else that of the environment."""
    host = url.partition("://")[2].partition("/")[0].partition("@")[2]
    account, connected = host.partition(".")[0], _connected_account()
    if account and connected and account != connected:  # each client would use another one
        raise ValueError(
            f"{url} names account {account}, and AZURE_STORAGE_CONNECTION_STRING account {connected}: correct one of "
            "them"
        )
    named = account or connected or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not named:
        raise ValueError(
            f"{url} names no account: set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING, or write "
            "abfss://container@account.dfs.core.windows.net/path"
        )
    return named


def _connected_account() -> str:
    """Return the account of the connection string, which may name only its server; empty if there is none."""
    connection = _connection()
    account, blob, _ = urlsplit(connection.get("BlobEndpoint", "")).netloc.partition(".blob.")
    return connection.get("AccountName") or (account if blob else "")


def _connection() -> dict[str, str]:
    pairs = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";")
    connection = dict(pair.strip().split("=", 1) for pair in pairs if "=" in pair)
    if "UseDevelopmentStorage" in connection:
        raise ValueError(
            "AZURE_STORAGE_CONNECTION_STRING: UseDevelopmentStorage is not supported: write AccountName, AccountKey "
            "and BlobEndpoint of the emulator"
        )
    return connection
