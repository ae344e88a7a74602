"""Columns that can be read in two ways, such as lists of 0 and 1. They are refused unless an option decides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..formats.class_folders import PICTURES
from . import columns, media

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
QUOTES = "[](){}'\" "  # around parts of a list in a string
SOME = 16  # values to look at
SEPARATORS = re.compile(r"\s*[,;|]\s*")


def multi_hot_width(column: Any, where: str, labels_as: str | None) -> int | None:
    """Return the width of multi-hot labels, 0 for labels that are values, None for lists without labels.

    Raises ValueError if both are possible, or if the labels are not as `labels_as` says.
    """
    columns.check_label_type(column.type, where)
    column = columns.plain(column)
    if not columns.is_list(column.type):
        if labels_as == "multi-hot":
            raise ValueError(f"expected lists of 0 and 1 as multi-hot labels, found {column.type}, in {where}")
        if labels_as is None and media.kind(column.type) == "text":
            _refuse_joined(column.drop_null().unique().to_pylist(), where)
        return 0
    if not (rows := [row for row in column.to_pylist() if row]):
        return None
    width, values = len(rows[0]), set().union(*rows)
    same_width = all(len(row) == width for row in rows)
    alike = same_width and values <= {0, 1}
    if labels_as == "multi-hot":
        if not alike:
            raise ValueError(f"expected lists of 0 and 1, all of one length, as multi-hot labels, in {where}")
        return width
    if alike and width > 1 and labels_as is None:
        raise ValueError(
            f"{where}: lists of {width} numbers 0 and 1 can be multi-hot labels or the labels 0 and 1: "
            "pass --labels-as multi-hot or --labels-as values"
        )
    repeated = any(len(set(row)) < width for row in rows)
    if labels_as is None and same_width and len(values) <= 2 and (repeated or len(set(map(tuple, rows))) > 1 < width):
        found = " and ".join(sorted(map(repr, values)))
        raise ValueError(
            f"{where}: lists of {width} values {found}, in any order, are like multi-hot labels: store these as lists "
            "of 0 and 1, or pass --labels-as values"
        )
    return 0


def _refuse_joined(labels: Sequence[str], where: str) -> None:
    """Raise ValueError for a label such as "cat,dog" if another one has a part of it: these may be several labels."""
    owners: dict[str, str] = {}
    for label in labels:
        parts = SEPARATORS.split(label)
        for part in {part.strip(QUOTES) if len(parts) > 1 else part for part in parts}:
            other = owners.setdefault(part, label)
            if part and other != label:
                joined = max(label, other, key=len)
                raise ValueError(
                    f"{where}: {joined!r} can be one label or several: pass --labels-as values if it is one, or store "
                    "lists of labels"
                )


def refuse_other_strings(texts: Any, where: str, named: str = "") -> None:
    """Raise ValueError for strings that are no texts but vectors in words, or paths of pictures.

    `named` is the column if nobody chose it, and it was read because of its name.
    """
    found = [text for text in media.values(texts.drop_null()) if isinstance(text, str)]
    if found and all(map(_is_vector, found)):
        what, remedy = "vectors", "store lists of numbers"
    elif found and all(text.lower().endswith(PICTURES) for text in found):
        what, remedy = "paths of pictures", "store the bytes of the pictures"
    elif named and named != "text":
        raise ValueError(
            f"expected {named}s, found strings, in {where}: if these are texts, pass --vector-column {named}"
        )
    else:
        return
    raise ValueError(f"expected texts, found {what} as strings, such as {found[0][:40]!r}, in {where}: {remedy}")


def refuse_other_bytes(contents: Any, where: str) -> None:
    """Raise ValueError for bytes that are not the numbers of vectors alone, but files of NumPy or pickles."""
    found = contents.drop_null()[:SOME].to_pylist()
    for what, is_other in (("files of NumPy", _is_npy), ("pickles", _is_pickle)):
        if found and all(map(is_other, found)):
            raise ValueError(f"expected bytes of numbers, found {what}, in {where}: store those of x.tobytes()")


def _is_npy(content: bytes) -> bool:
    return content.startswith(b"\x93NUMPY")


def _is_pickle(content: bytes) -> bool:
    return content[:1] == b"\x80" and content[1:2] in (b"\2", b"\3", b"\4", b"\5") and content.endswith(b".")


def _is_vector(text: str) -> bool:
    numbers = re.split(r"[\s,;]+", text.strip("[](){}; \n"))
    return len(numbers) > 1 and all(map(NUMBER.fullmatch, numbers))
