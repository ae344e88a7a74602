"""How S3 is reached: with patience."""

from __future__ import annotations

import os
from typing import Any

from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

ATTEMPTS = 5  # at a request that was throttled, failed or lost; with back-off and jitter, up to 20 seconds between two
BODIES = 3  # at an answer that was torn on its way: s3fs tries those itself
SECONDS = 20  # of silence, after which an answer is lost


class Patience(AwsStandardS3RetryStrategy):  # type: ignore[misc]
    """pyarrow's, as pyiceberg makes it: by name, without arguments."""

    def __init__(self) -> None:
        super().__init__(max_attempts=ATTEMPTS)


def arrow() -> Any:
    """pyarrow's filesystem."""
    return S3FileSystem(
        endpoint_override=endpoint(), retry_strategy=Patience(), request_timeout=SECONDS, connect_timeout=SECONDS
    )


def fsspec() -> Any:
    """s3fs, which shows what is there now: a cache of listings would hide other writers' files."""
    import s3fs

    patience = {"mode": "standard", "total_max_attempts": ATTEMPTS}  # the default mode has no jitter
    config = {"retries": patience, "read_timeout": SECONDS, "connect_timeout": SECONDS}
    fs = s3fs.S3FileSystem(use_listings_cache=False, endpoint_url=endpoint(), config_kwargs=config)
    fs.retries = BODIES
    return fs


def iceberg() -> dict[str, str]:
    """Properties of a pyiceberg catalog."""
    seconds = {name: str(SECONDS) for name in ("s3.connect-timeout", "s3.request-timeout")}
    known = {"s3.endpoint": url} if (url := endpoint()) else {}
    return {"s3.retry-strategy-impl": f"{__name__}.{Patience.__name__}", **seconds, **known}


def endpoint() -> str | None:
    """The S3 server that the environment names: s3fs reads it by itself, but keeps the first; the others do not."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
