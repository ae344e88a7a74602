"""Lists of pictures, as published with HashNet (Cao et al., ICCV 2017): `path l1 l2 ... lc` a line, l in {0, 1}.

A folder holds database.txt, and train.txt and test.txt where there are rows to learn from and to ask with. A picture
that stands in several lists has one id, its line in the database's, so that a query is known in the database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from . import FeatureRows

FILES = {"base": "database.txt", "learn": "train.txt", "query": "test.txt"}
ROWS = 256  # of a block


class Entry(NamedTuple):
    """A line of a list."""

    path: str
    labels: list[int]
    line: int  # from 1 on


def entries(path: str | Path) -> list[Entry]:
    """The lines of a list. Raises ValueError where one has no path, other labels than 0 and 1, or another number."""
    found: list[Entry] = []
    width = 0
    with open(path, encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            name, *values = text.split() or ("",)
            if not name:
                continue
            width = width or len(values)
            if not values or set(values) - {"0", "1"} or len(values) != width:
                expected = f"a path and {width or 'some'} labels of 0 or 1"
                raise ValueError(f"{path}: expected {expected}, found {text.strip()[:80]!r} in line {line}")
            found.append(Entry(name, [place for place, value in enumerate(values) if value == "1"], line))
    if not found:
        raise ValueError(f"{path}: expected lines of a path and labels, found none")
    return found


def ids(lists: Mapping[str, list[Entry]], first: Mapping[str, int]) -> dict[str, int]:
    """The id of each path: its place in the first list that has it, counted from that list's first id."""
    known: dict[str, int] = {}
    for split, lines in lists.items():
        for place, entry in enumerate(lines):
            known.setdefault(entry.path, first[split] + place)
    return known


def read_pictures(path: str | Path, lines: list[Entry], known: Mapping[str, int]) -> Iterator[FeatureRows]:
    """The rows of a list. Raises ValueError where a picture is not there, or is there twice.

    Pictures are looked for beside the list, and below: of a path that leads elsewhere, such as that of the machine on
    which a list was made, the longest end that is there counts.
    """
    root, seen = Path(path).parent, set[str]()
    for start in range(0, len(lines), ROWS):
        block = lines[start : start + ROWS]
        pictures = []
        for entry in block:
            if entry.path in seen:
                raise ValueError(f"{path}: expected each picture once, found {entry.path} again in line {entry.line}")
            seen.add(entry.path)
            if (place := _find(root, entry.path)) is None:
                raise ValueError(f"{path}: expected {entry.path} below {root}, found none, in line {entry.line}")
            pictures.append(place.read_bytes())
        yield FeatureRows(np.array([known[entry.path] for entry in block]), pictures, [entry.labels for entry in block])


def _find(root: Path, path: str) -> Path | None:
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    places = (root.joinpath(*parts[skipped:]) for skipped in range(len(parts)))
    return next((place for place in places if place.is_file()), None)
