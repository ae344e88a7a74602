"""A few arrays under a URL, whole or not at all: what was computed once and would be computed again if it were lost."""

from __future__ import annotations

import io
import logging
import zipfile
import zlib

import numpy as np

from hashing.mapreduce import Array

from . import filesystem

logger = logging.getLogger(__name__)


def read(url: str) -> dict[str, Array] | None:
    """The arrays, or None where there are none, or where their checksums say that the file is damaged."""
    if not filesystem.touch(url):
        return None
    try:
        with np.load(io.BytesIO(filesystem.read(url)), allow_pickle=False) as file:
            return dict(file)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, FileNotFoundError) as error:
        logger.warning("%s is damaged, and is computed again: %s", url, error)
        return None


def write(url: str, **arrays: Array) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    filesystem.write(url, file.getvalue())
