"""Errors of S3 as one line each: the operation, the URL, the reason."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def explains_s3_errors(action: str) -> Callable[[F], F]:
    """Decorate a function whose first argument is a URL, to run each call in `explain_s3_errors`."""

    def decorate(function: F) -> F:
        @wraps(function)
        def wrapper(url: str, *rest: Any) -> Any:
            with explain_s3_errors(action, url):
                return function(url, *rest)

        return cast(F, wrapper)

    return decorate


@contextmanager
def explain_s3_errors(action: str, url: str) -> Iterator[None]:
    """Replace errors of S3 by one-line errors of the same meaning. Other errors pass unchanged.

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
        If S3 still fails after all attempts.
    """
    try:
        yield
    except Exception as error:
        if not url.startswith("s3://") or (explained := _explained(error, action, url)) is error:
            raise
        raise explained from error


def _explained(error: Exception, action: str, url: str) -> Exception:
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    from . import s3

    server, reason = s3.endpoint() or "AWS", " ".join(str(error).split())
    if isinstance(error, (PermissionError, NoCredentialsError)):
        key = os.environ.get("AWS_ACCESS_KEY_ID", "not set")
        return PermissionError(f"permission denied: cannot {action} {url}: {reason} (AWS_ACCESS_KEY_ID is {key})")
    if isinstance(error, FileNotFoundError) and "bucket does not exist" in reason:
        bucket = url.removeprefix("s3://").partition("/")[0]
        return FileNotFoundError(f"bucket {bucket} does not exist at {server}: create it, or correct {url}")
    if isinstance(error, (FileNotFoundError, FileExistsError)) or not isinstance(error, (OSError, BotoCoreError)):
        return error
    return ConnectionError(f"cannot {action} {url}: S3 at {server} failed {s3.ATTEMPTS} times: {reason}")
