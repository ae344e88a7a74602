"""Pictures and texts as rows of numbers: a picture is its pixels, a text the keyed numbers of its words."""

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

SIDE, LENGTH = 64, 32  # of a picture, unless it is asked for otherwise; words of a text
CHANNELS = 3


def kind(column_type: Any) -> Literal["image", "text"] | None:
    """What a column of this Arrow type holds."""
    import pyarrow as pa

    if pa.types.is_binary(column_type) or pa.types.is_large_binary(column_type):
        return "image"
    return "text" if pa.types.is_string(column_type) or pa.types.is_large_string(column_type) else None


def dim(kind: str, side: int = SIDE) -> int:
    """Numbers in a row of pictures, which are read at side x side pixels, or of texts."""
    return {"image": CHANNELS * side**2, "text": LENGTH}[kind]


def pixels(data: bytes, dim: int) -> Array:
    """(dim,) uint8 of a square RGB picture, dim = 3 side^2, of an encoded one of any size.

    Raises ValueError for what is no picture.
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


def words(text: str, length: int) -> Array:
    """Return (length,) int64, the numbers of a text's first words, then zeros."""
    numbers = word_numbers(text, length)
    return np.pad(numbers, (0, length - len(numbers)))


def word_numbers(text: str, most: int | None = None) -> Array:
    """Return (m,) int64 from 1 to WORDS - 1, the numbers of a text's words, or of the first `most` of them."""
    return np.array([word_number(word) for word in re.findall(r"\w+", text.lower())[:most]], np.int64)


@lru_cache(maxsize=2**16)
def word_number(word: str) -> int:
    """A keyed hash of a word, the same in every run: two words may share a number."""
    return 1 + int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little") % (WORDS - 1)


def usable_media(column: Any, dim: int) -> tuple[Array, dict[int, str]]:
    """(m, dim) float32 of the rows of a binary or string column that can be read, and what is wrong with each other."""
    rows, faults = [], {}
    for row, value in enumerate(column.to_pylist()):
        try:
            if value is None:
                raise ValueError("expected a picture or a text, found null")
            rows.append(pixels(value, dim) if isinstance(value, bytes) else words(value, dim))
        except ValueError as error:
            faults[row] = str(error)
    return np.array(rows, np.float32).reshape(len(rows), dim), faults
