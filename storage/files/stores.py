"""Remote stores, by the scheme of a URL. Each has a module with what differs between them."""

from __future__ import annotations

from importlib import import_module
from typing import Any, Protocol, cast

MODULES = {"s3": "s3", "gs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}


class Store(Protocol):
    """What the module of a store has."""

    NAME: str  # for messages
    ATTEMPTS: int  # for a request that is throttled, fails or times out
    VERSION: str  # field of fsspec's description of a file that changes with its content
    MODIFIED: str  # field with the time when the file was written

    def fsspec_filesystem(self, url: str) -> Any:
        """Return fsspec's filesystem, without its cache of listings, which would hide files of other writers."""

    def arrow_filesystem(self, url: str) -> Any:
        """Return pyarrow's filesystem."""

    def catalog_properties(self) -> dict[str, str]:
        """Return the properties of a pyiceberg catalog whose tables are in the store."""

    def server(self, url: str) -> str:
        """Return the server, for messages."""

    def identity(self, url: str) -> str:
        """Return the sentence that says whose credentials are used."""

    def status(self, error: Exception) -> int | None:
        """Return the HTTP status of an error of the clients, 0 if they had no response, None for any other error."""

    def check_writable(self, fs: Any, path: str) -> None:
        """Raise the error of writing a file, by an upload that is begun and never completed."""

    def touch(self, fs: Any, path: str) -> None:
        """Update the modification time of a file."""


def store(url: str) -> Store | None:
    """Return the store of a URL, None for the local disk.

    Raises
    ------
    ValueError
        If the scheme is unknown.
    RuntimeError
        If the package of the store is not installed.
    """
    if not (prefix := scheme(url)):
        return None
    if not (module := MODULES.get(prefix.removesuffix("://"))):
        *others, last = (f"{name}://" for name in MODULES)
        raise ValueError(f"expected a path, file://, {', '.join(others)} or {last} URL, found {url}")
    try:
        return cast(Store, import_module(f".{module}", __package__))
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise RuntimeError(f"{prefix} URLs need the package {package}: pip install 'hashkiln[{module}]'") from error


def scheme(url: str) -> str:
    """Return the scheme, such as `s3://`; empty for the local disk."""
    head, separator, _ = url.partition("://")
    return "" if not separator or head == "file" else head + separator


def path(url: str) -> str:
    """Return the path of a file in a store, which begins with its bucket or container.

    >>> path("abfss://container@account.dfs.core.windows.net/folder/file")
    'container/folder/file'
    """
    authority, separator, rest = url.removeprefix(scheme(url)).partition("/")
    return authority.partition("@")[0] + separator + rest


def same_bucket_url(url: str, path: str) -> str:
    """Return the URL of another path in the same bucket.

    >>> same_bucket_url("abfss://container@account.dfs.core.windows.net/folder", "container/file")
    'abfss://container@account.dfs.core.windows.net/file'
    """
    authority = url.removeprefix(scheme(url)).partition("/")[0]
    return f"{scheme(url)}{authority}/{path.partition('/')[2]}"
