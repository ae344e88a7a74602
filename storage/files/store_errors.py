"""Errors of a store as one line each: the operation, the URL, the reason."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, TypeVar, cast

from .stores import Store, path, scheme, store

F = TypeVar("F", bound=Callable[..., Any])


def explains_store_errors(action: str) -> Callable[[F], F]:
    """Decorate a function whose first argument is a URL, to run each call in `explain_store_errors`."""

    def decorate(function: F) -> F:
        @wraps(function)
        def wrapper(url: str, *rest: Any) -> Any:
            with explain_store_errors(action, url):
                return function(url, *rest)

        return cast(F, wrapper)

    return decorate


@contextmanager
def explain_store_errors(action: str, url: str) -> Iterator[None]:
    """Replace errors of a store by one-line errors of the same meaning. Other errors pass unchanged.

    Parameters
    ----------
    action
        Verb for the message: list, read, write or remove.

    Raises
    ------
    PermissionError
        If the credentials are missing, wrong, or do not allow the action.
    FileNotFoundError
        If the bucket does not exist.
    ConnectionError
        If the store still fails after all attempts.
    """
    try:
        yield
    except Exception as error:
        if not (where := store(url)) or (explained := _explained(error, action, url, where)) is error:
            raise
        raise explained from error


def _explained(error: Exception, action: str, url: str, where: Store) -> Exception:
    status, reason = where.status(error), " ".join(str(error).split())
    if isinstance(error, PermissionError) or status in (401, 403):
        return PermissionError(f"permission denied: cannot {action} {url}: {reason} ({where.identity(url)})")
    if isinstance(error, FileNotFoundError) or status == 404:
        try:
            find_bucket(url)
        except FileNotFoundError:
            bucket = path(url).partition("/")[0]
            message = f"bucket {bucket} does not exist at {where.server(url)}: create it, or correct {url}"
            return FileNotFoundError(message)
    if isinstance(error, (FileNotFoundError, FileExistsError)) or not (
        status is not None or isinstance(error, OSError)
    ):
        return error
    return ConnectionError(
        f"cannot {action} {url}: {where.NAME} at {where.server(url)} failed {where.ATTEMPTS} times: {reason}"
    )


def find_bucket(url: str) -> None:
    """Raise FileNotFoundError if the bucket of a URL does not exist."""
    _find_bucket(scheme(url) + url.removeprefix(scheme(url)).partition("/")[0])


@cache  # a bucket that was found is not looked for again; errors are not cached
def _find_bucket(url: str) -> None:
    if not (where := store(url)):
        return
    try:
        where.fsspec_filesystem(url).info(path(url))
    except FileNotFoundError:
        raise
    except Exception:  # the credentials need not allow to ask for the bucket
        return
