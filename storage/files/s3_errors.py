"""What S3 refuses, said in one line: what was asked, of whom, and why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def telling(deed: str) -> Callable[[F], F]:
    """A function of a URL whose errors are told."""

    def decorate(function: F) -> F:
        @wraps(function)
        def telling_function(url: str, *rest: Any) -> Any:
            with told(deed, url):
                return function(url, *rest)

        return cast(F, telling_function)

    return decorate


@contextmanager
def told(deed: str, url: str) -> Iterator[None]:
    """Errors of S3 inside say what they mean. Others pass as they are."""
    try:
        yield
    except Exception as error:
        if not url.startswith("s3://") or (line := _explained(error, deed, url)) is error:
            raise
        raise line from error


def _explained(error: Exception, deed: str, url: str) -> Exception:
    """What an error of S3 means, in one line."""
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    from . import s3

    found = " ".join(str(error).split())
    if isinstance(error, (PermissionError, NoCredentialsError)):
        key = os.environ.get("AWS_ACCESS_KEY_ID", "not set")
        return PermissionError(f"expected leave to {deed} {url}, found: {found} (AWS_ACCESS_KEY_ID is {key})")
    if isinstance(error, FileNotFoundError) and "bucket does not exist" in found:
        bucket = url.removeprefix("s3://").partition("/")[0]
        return FileNotFoundError(f"expected a bucket {bucket} at {s3.endpoint() or 'AWS'}, found none")
    if isinstance(error, (FileNotFoundError, FileExistsError)) or not isinstance(error, (OSError, BotoCoreError)):
        return error
    return ConnectionError(
        f"expected S3 at {s3.endpoint() or 'AWS'} to {deed} {url}, tried {s3.ATTEMPTS} times, found: {found}"
    )
