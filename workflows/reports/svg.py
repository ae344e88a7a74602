"""Drawings as SVG: inline in a page that colours them, or as a file."""

from html import escape

from .charts import INK, Drawing, Path, Text, look


def svg(drawing: Drawing, file: bool = False) -> str:
    """Return a drawing as an SVG element that the style of its page colours, or as a file with colours of its own."""
    if file:
        head = f'xmlns="http://www.w3.org/2000/svg" width="{drawing.width:g}pt" height="{drawing.height:g}pt"'
        head += ' font-family="Helvetica, Arial, sans-serif" font-size="11"'
    else:
        head = 'aria-hidden="true" focusable="false"'  # the figure names it, and its table has the numbers
    parts = [f'<svg {head} viewBox="0 0 {drawing.width:g} {drawing.height:g}">']
    ink = f' fill="{INK}"' if file else ""
    shades: dict[str, str] = {}  # one path for all cells of a shade
    for mark in drawing.marks:
        if isinstance(mark, Text):
            turned = f' transform="rotate(-90 {mark.x:g} {mark.y:.4g})"' if mark.turned else ""
            where = f'x="{mark.x:.4g}" y="{mark.y:.4g}" text-anchor="{mark.anchor}"{turned}'
            parts.append(f"<text {where}{ink}>{escape(mark.text)}</text>")
        elif mark.style[0] in "pn":
            shades[mark.style] = shades.get(mark.style, "") + _outline(mark)
        else:
            title = f"<title>{escape(mark.title)}</title>" if mark.title and not file else ""
            parts.append(f'<path {_look(mark.style, file)} d="{_outline(mark)}">{title}</path>')
    parts += [f'<path {_look(style, file)} d="{outline}"/>' for style, outline in shades.items()]
    return "".join(parts) + "</svg>"


def _outline(path: Path) -> str:
    return "M" + "L".join(f"{x:.4g} {y:.4g}" for x, y in path.points) + "Z" * path.closed


def _look(style: str, file: bool) -> str:
    if not file:
        return f'class="{style}"'
    found = look(style)
    dash = f' stroke-dasharray="{found.dash}"' if found.dash else ""
    stroke = f'stroke="{found.stroke or "none"}" stroke-width="{found.width:g}"{dash}'
    return f'{stroke} fill="{found.fill or "none"}" fill-opacity="{found.opacity:g}"'
