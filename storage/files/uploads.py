"""Incomplete multipart uploads: S3 charges for them, but no listing shows them."""

from typing import Any, NamedTuple

from . import stores
from .store_errors import explains_store_errors


class Upload(NamedTuple):
    """An incomplete multipart upload."""

    url: str
    upload_id: str
    started: float  # by the clock of the store, in seconds since the epoch


@explains_store_errors("list")
def incomplete_uploads(url: str, limit: float) -> list[Upload]:
    """Return the incomplete multipart uploads below an S3 folder that started before `limit`; none elsewhere.

    Google and Azure discard them after a week.
    """
    if stores.scheme(url) != "s3://":
        return []
    fs, bucket, prefix = _bucket(f"{url.rstrip('/')}/")
    uploads: list[Upload] = []
    markers: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **markers)
        uploads += [
            Upload(f"s3://{bucket}/{entry['Key']}", entry["UploadId"], entry["Initiated"].timestamp())
            for entry in page.get("Uploads", [])
        ]
        if not page.get("IsTruncated"):
            return [upload for upload in uploads if upload.started < limit]
        markers = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort_upload(upload: Upload) -> None:
    """Abort a multipart upload and free its storage."""
    fs, bucket, key = _bucket(upload.url)
    fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload.upload_id)


def _bucket(url: str) -> tuple[Any, str, str]:
    """Return fsspec's filesystem, the bucket and the key of an S3 URL."""
    from . import s3

    bucket, _, key = stores.path(url).partition("/")
    return s3.fsspec_filesystem(url), bucket, key
