"""Pictures and texts as rows of numbers: the pixels of a picture, the hashes of the words in a text."""

from __future__ import annotations

import io
import re
from functools import lru_cache
from hashlib import blake2b
from math import isqrt
from typing import Any, Literal

import numpy as np

from hashing.mapreduce import Array
from hashing.statistics import WORDS

SIDE, LENGTH = 64, 32  # default side of a picture in pixels; words of a text
CHANNELS = 3


def kind(column_type: Any) -> Literal["image", "text"] | None:
    """Return what a column of this Arrow type holds; None if neither pictures nor texts."""
    import pyarrow as pa

    if pa.types.is_binary(column_type) or pa.types.is_large_binary(column_type):
        return "image"
    return "text" if pa.types.is_string(column_type) or pa.types.is_large_string(column_type) else None


def dim(kind: str, side: int = SIDE) -> int:
    """Return the numbers in a row: of a picture, resized to side x side pixels, or of a text."""
    return {"image": CHANNELS * side**2, "text": LENGTH}[kind]


def pixels(data: bytes, dim: int) -> Array:
    """Decode a picture of any size, resize it to side x side, and return its RGB values (dim,) uint8, dim = 3 side^2.

    Raises ValueError if the data cannot be decoded.
    """
    from PIL import Image, UnidentifiedImageError

    side = isqrt(dim // CHANNELS)
    try:
        with Image.open(io.BytesIO(data)) as picture:
            square = picture.convert("RGB")
            if square.size != (side, side):
                square = square.resize((side, side), Image.Resampling.BILINEAR)
            return np.asarray(square, np.uint8).ravel()
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"expected a picture, found {error}") from None


def text_row(text: str, length: int) -> Array:
    """Return (length,) int64, the numbers of a text's first words, padded with zeros."""
    numbers = word_numbers(text, length)
    return np.pad(numbers, (0, length - len(numbers)))


def word_numbers(text: str, limit: int | None = None) -> Array:
    """Return (m,) int64 from 1 to WORDS - 1, the numbers of a text's words, or of its first `limit` words."""
    return np.array([word_number(word) for word in re.findall(r"\w+", text.lower())[:limit]], np.int64)


@lru_cache(maxsize=2**16)
def word_number(word: str) -> int:
    """Return a hash of a word from 1 to WORDS - 1, the same in every run. Different words may share one."""
    return 1 + int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little") % (WORDS - 1)


def usable_media(column: Any, dim: int) -> tuple[Array, dict[int, str]]:
    """Return the readable rows of a binary or string column, (m, dim) float32, and an error for each other row."""
    rows, errors = [], {}
    for row, value in enumerate(column.to_pylist()):
        try:
            if value is None:
                raise ValueError("expected a picture or a text, found null")
            rows.append(pixels(value, dim) if isinstance(value, bytes) else text_row(value, dim))
        except ValueError as error:
            errors[row] = str(error)
    return np.array(rows, np.float32).reshape(len(rows), dim), errors
