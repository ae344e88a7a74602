"""Drawings as PDF files of one page, with the font embedded, as publishers ask for."""

import zlib

from storage.files.fonts import Font, default_font

from .charts import INK, Drawing, Path, Text, look

SIZE = 11  # of the text, as in SVG


def pdf(drawing: Drawing) -> bytes:
    """Return a drawing as a PDF file."""
    font = default_font()
    opacities = sorted({1.0, *(look(mark.style).opacity for mark in drawing.marks if isinstance(mark, Path))})
    content = "\n".join(
        _text(mark, drawing.height, font, opacities.index(1.0))
        if isinstance(mark, Text)
        else _path(mark, drawing.height, opacities)
        for mark in drawing.marks
    ).encode("cp1252", "replace")
    states = " ".join(f"/G{i} << /ca {opacity:g} >>" for i, opacity in enumerate(opacities))
    last = font.first + len(font.widths) - 1
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {drawing.width:g} {drawing.height:g}] /Contents 4 0 R "
        f"/Resources << /Font << /F 5 0 R >> /ExtGState << {states} >> >> >>".encode(),
        _stream(content),
        f"<< /Type /Font /Subtype /TrueType /BaseFont /{font.name} /Encoding /WinAnsiEncoding /FontDescriptor 6 0 R "
        f"/FirstChar {font.first} /LastChar {last} /Widths {font.widths} >>".replace(",", "").encode(),
        f"<< /Type /FontDescriptor /FontName /{font.name} /Flags 32 /FontBBox [0 -250 1000 1000] /ItalicAngle 0 "
        "/Ascent 970 /Descent -230 /CapHeight 700 /StemV 80 /FontFile2 7 0 R >>".encode(),
        _stream(font.content),
    ]
    file, places = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
    for number, value in enumerate(objects, 1):
        places.append(len(file))
        file += b"%d 0 obj\n%s\nendobj\n" % (number, value)
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    trailer = f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(file)}\n%%EOF\n"
    return file + f"xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode()


def _stream(content: bytes) -> bytes:
    packed = zlib.compress(content)
    return b"<< /Length %d /Length1 %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (
        len(packed), len(content), packed,
    )  # fmt: skip


def _path(path: Path, height: float, opacities: list[float]) -> str:
    style = look(path.style)
    points = [f"{x:.2f} {height - y:.2f}" for x, y in path.points]
    outline = f"{points[0]} m " + " ".join(f"{point} l" for point in points[1:]) + " h" * path.closed
    if style.fill:
        return f"/G{opacities.index(style.opacity)} gs {_colour(style.fill)} rg {outline} f"
    return f"[{style.dash}] 0 d {style.width:g} w {_colour(style.stroke)} RG {outline} S"


def _text(text: Text, height: float, font: Font, opaque: int) -> str:
    width = sum(font.widths[ord(c) - font.first] if c.isascii() else 600 for c in text.text) * SIZE / 1000
    before = {"start": 0.0, "middle": width / 2, "end": width}[text.anchor]
    x, y = text.x, height - text.y
    where = f"0 1 -1 0 {x:.2f} {y - before:.2f}" if text.turned else f"1 0 0 1 {x - before:.2f} {y:.2f}"
    escaped = text.text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return f"/G{opaque} gs {_colour(INK)} rg BT /F {SIZE} Tf {where} Tm ({escaped}) Tj ET"


def _colour(colour: str) -> str:
    return " ".join(f"{int(colour[i : i + 2], 16) / 255:.3f}" for i in (1, 3, 5))
