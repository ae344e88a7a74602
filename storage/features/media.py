"""Images and texts as rows of numbers: the pixels of an image, the hashes of the words in a text."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import blake2b
from math import isqrt
from threading import Lock
from typing import Any, Literal

import numpy as np

from hashing.mapreduce import Array
from hashing.statistics import WORDS

SIDE, LENGTH = 64, 32  # default side of an image in pixels; number of words of a text
CHANNELS = 3
NO_FORMAT = "of no known format"
# Those that people keep pictures in. Pillow would start Ghostscript for EPS, and its other decoders are little tested.
FORMATS = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
BYTES = "bytes"  # the field of an encoded image in a struct (bytes, path)
_quiet = Lock()


def kind(column_type: Any) -> Literal["image", "text"] | None:
    """Return what a column of this Arrow type holds; None if neither images nor texts."""
    from pyarrow import types

    if types.is_dictionary(column_type):
        column_type = column_type.value_type
    if types.is_struct(column_type) and (field := column_type.get_field_index(BYTES)) >= 0:
        column_type = column_type.field(field).type
        if types.is_null(column_type):  # in no row, but the struct has paths
            return "image"
    if is_bytes(column_type):
        return "image"
    return "text" if is_text(column_type) else None


def is_bytes(column_type: Any) -> bool:
    """Return whether a column of this Arrow type holds bytes."""
    from pyarrow import types

    kinds = types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary
    return any(is_kind(column_type) for is_kind in kinds)


def is_text(column_type: Any) -> bool:
    """Return whether a column of this Arrow type holds strings."""
    from pyarrow import types

    return any(is_kind(column_type) for is_kind in (types.is_string, types.is_large_string, types.is_string_view))


def is_utf8(column: Any) -> bool:
    """Return whether all strings of a column are in UTF-8, which files may claim without a check."""
    import pyarrow as pa

    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def encoded(column: Any) -> Any:
    """Return a column of encoded images or texts. From structs, as in Hugging Face datasets, return the bytes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.struct_field(column, BYTES) if pa.types.is_struct(column.type) else column


def values(column: Any) -> list[Any]:
    """Return the encoded images or texts of a column; of a text that is not in UTF-8, the bytes."""
    import pyarrow as pa

    column = encoded(column)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not is_text(column.type) or is_utf8(column):
        return list(column.to_pylist())
    return [_text(content) for content in column.cast(pa.binary()).to_pylist()]


def _text(content: bytes | None) -> str | bytes | None:
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError:
        return content


def dim(kind: str, side: int = SIDE) -> int:
    """Return the dimension of a row: of an image of side x side pixels, or of a text.

    >>> dim("image"), dim("text")
    (12288, 32)
    """
    return {"image": CHANNELS * side**2, "text": LENGTH}[kind]


def pixels(data: bytes, dim: int) -> Array:
    """Decode an image of any size, resize it to side x side, and return its RGB values (dim,) uint8, dim = 3 side^2.

    Raises ValueError as `picture` does.
    """
    from PIL import Image

    side = isqrt(dim // CHANNELS)
    square = picture(data)
    if square.size != (side, side):
        square = square.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(square, np.uint8).ravel()


def picture(data: bytes) -> Any:
    """Decode an image of any size, and return it as a PIL image in RGB with 8 bits per channel.

    The image is rotated according to its EXIF orientation. Transparent parts become white. 16-bit values, and floats
    from 0 to 1, are scaled to 8 bits. Raises ValueError if the data cannot be decoded, or if the range of its values is
    unknown.
    """
    from PIL import ImageOps, UnidentifiedImageError

    try:
        with without_warnings(), opened(data) as found:
            kind, turned = (found.mode, found.format), ImageOps.exif_transpose(found)
    except UnidentifiedImageError:  # whose words are about an object in memory
        raise ValueError(f"expected a picture, found {len(data):,} bytes {NO_FORMAT}") from None
    except Exception as error:  # decoders raise errors of any type for damaged content
        raise ValueError(f"expected a picture, found {error}") from None
    if kind == ("I", "TIFF"):  # of unknown range; Pillow scales those of PPM to 16 bits
        raise ValueError("expected a picture of 8 or 16 bits, found signed or 32-bit integers: convert it")
    return _rgb(turned)


def opened(data: bytes) -> Any:
    """Return a PIL image, whose pixels are not decoded yet. Raises errors of any type."""
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=FORMATS)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore the warnings of Pillow. One thread at a time, as the filters of warnings belong to the whole process."""
    with _quiet, warnings.catch_warnings(action="ignore"):
        yield


def _rgb(picture: Any) -> Any:
    """Return a PIL image of any mode as RGB with 8 bits per channel."""
    from PIL import Image

    if picture.mode.startswith(("I", "F")):  # one channel of more than 8 bits
        values = np.asarray(picture, np.float64)
        deepest = 65535.0 if picture.mode.startswith("I") else 1.0
        if not (values.min() >= 0 and values.max() <= deepest):
            raise ValueError(
                f"expected a picture with values from 0 to {deepest:.0f}, found {values.min():g} to {values.max():g}: "
                "convert it to 8 bits"
            )
        return Image.fromarray(np.rint(values * (255 / deepest)).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layers = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return picture.convert("RGB")


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
    rows, errors, texts = [], {}, kind(column.type) == "text"
    for row, value in enumerate(values(column)):
        try:
            if value is None:
                raise ValueError("expected a picture or a text, found null")
            if texts and isinstance(value, bytes):
                raise ValueError(f"expected a text in UTF-8, found {value[:20]!r}")
            rows.append(pixels(value, dim) if isinstance(value, bytes) else text_row(value, dim))
        except ValueError as error:
            errors[row] = str(error)
    return np.array(rows, np.float32).reshape(len(rows), dim), errors
