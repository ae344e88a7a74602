"""The S3 clients of fsspec, pyarrow and pyiceberg, with one set of timeouts and retries."""

from __future__ import annotations

import os
from typing import Any

from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

NAME = "S3"
VERSION, MODIFIED = "ETag", "LastModified"
ATTEMPTS = 5  # for a request that is throttled, fails or times out; with backoff and jitter, at most 20 s apart
BODY_ATTEMPTS = 3  # for a response body that breaks off, which s3fs retries itself
TIMEOUT = 20  # seconds without a byte


class RetryStrategy(AwsStandardS3RetryStrategy):  # type: ignore[misc]  # pyarrow has no types
    """Retry strategy for pyarrow. pyiceberg creates it by name, without arguments."""

    def __init__(self) -> None:
        super().__init__(max_attempts=ATTEMPTS)


def arrow_filesystem(url: str) -> Any:
    return S3FileSystem(
        endpoint_override=endpoint(), retry_strategy=RetryStrategy(), request_timeout=TIMEOUT, connect_timeout=TIMEOUT
    )


def fsspec_filesystem(url: str) -> Any:
    import s3fs

    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}  # the default mode has no jitter
    config = {"retries": retries, "read_timeout": TIMEOUT, "connect_timeout": TIMEOUT}
    fs = s3fs.S3FileSystem(use_listings_cache=False, endpoint_url=endpoint(), config_kwargs=config)
    fs.retries = BODY_ATTEMPTS
    return fs


def catalog_properties() -> dict[str, str]:
    timeouts = {name: str(TIMEOUT) for name in ("s3.connect-timeout", "s3.request-timeout")}
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    server = {"s3.endpoint": url, "s3.region": region} if (url := endpoint()) else {}  # pyiceberg would ask AWS for it
    return {"s3.retry-strategy-impl": f"{__name__}.{RetryStrategy.__name__}", **timeouts, **server}


def server(url: str) -> str:
    return endpoint() or "AWS"


def identity(url: str) -> str:
    return f"AWS_ACCESS_KEY_ID is {os.environ.get('AWS_ACCESS_KEY_ID', 'not set')}"


def status(error: Exception) -> int | None:
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    if isinstance(error, NoCredentialsError):
        return 401
    return 0 if isinstance(error, BotoCoreError) else None


def check_writable(fs: Any, path: str) -> None:
    bucket, _, key = path.partition("/")
    begun = fs.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
    fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=begun["UploadId"])


def touch(fs: Any, path: str) -> None:
    bucket, _, key = path.partition("/")  # the only way is to copy the object onto itself
    fs.call_s3("copy_object", Bucket=bucket, Key=key, CopySource=path, MetadataDirective="REPLACE")


def endpoint() -> str | None:
    """Return the S3 server that the environment names, or None for AWS.

    s3fs reads the environment itself, but caches the first value; pyarrow and pyiceberg do not read it.
    """
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
