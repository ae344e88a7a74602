"""Incomplete multipart uploads: S3 charges for them, but no listing shows them."""

from __future__ import annotations
