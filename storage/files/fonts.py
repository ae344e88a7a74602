"""The font that is embedded in PDF files: Aileron (CC0), which comes with Pillow."""

import io
from typing import NamedTuple


class Font(NamedTuple):
    """A TrueType font."""

    name: str
    content: bytes
    first: int  # code in CP1252 of the first character in `widths`
    widths: list[int]  # of characters, in thousandths of the font size


def default_font() -> Font:
    """Return the font."""
    from PIL import ImageFont

    font = ImageFont.load_default(size=1000)
    if not isinstance(font, ImageFont.FreeTypeFont) or not isinstance(font.path, io.BytesIO):
        raise RuntimeError("expected Pillow with FreeType, found one without: install pillow from PyPI")
    widths = [round(font.getlength(bytes([code]).decode("cp1252", "replace"))) for code in range(32, 127)]
    return Font("".join(filter(None, font.getname())), font.path.getvalue(), 32, widths)
