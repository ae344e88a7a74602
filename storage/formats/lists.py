"""Lists of pictures, as published with HashNet (Cao et al., ICCV 2017): lines `path l1 l2 ... lc`, each l 0 or 1.

A folder holds database.txt and, for training rows and queries, train.txt and test.txt. A picture in several lists has
one id, its position in database.txt, so that a query is recognized in the database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from . import FeatureRows

FILES = {"base": "database.txt", "learn": "train.txt", "query": "test.txt"}
BLOCK_ROWS = 256


class Entry(NamedTuple):
    """A line of a list."""

    path: str
    labels: list[int]
    line: int  # counted from 1


def read_entries(path: str | Path) -> list[Entry]:
    """Return the lines of a list. Raises ValueError for labels other than 0 and 1, and for lines of unequal length."""
    entries: list[Entry] = []
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
            entries.append(Entry(name, [label for label, value in enumerate(values) if value == "1"], line))
    if not entries:
        raise ValueError(f"{path}: expected lines of a path and labels, found none")
    return entries


def assign_ids(lists: Mapping[str, list[Entry]], first: Mapping[str, int]) -> dict[str, int]:
    """Return the id of each path: its position in the first list that holds it, plus the first id of that list."""
    ids: dict[str, int] = {}
    for split, entries in lists.items():
        for position, entry in enumerate(entries):
            ids.setdefault(entry.path, first[split] + position)
    return ids


def read_pictures(path: str | Path, entries: list[Entry], ids: Mapping[str, int]) -> Iterator[FeatureRows]:
    """Yield the rows of a list, in blocks. Raises ValueError for a picture that is missing or listed twice.

    Pictures are searched in the folder of the list. If a path leads elsewhere, for example to a folder of the machine
    on which the list was made, its longest ending that exists in the folder of the list is used.
    """
    root, seen = Path(path).parent, set[str]()
    for start in range(0, len(entries), BLOCK_ROWS):
        block = entries[start : start + BLOCK_ROWS]
        pictures = []
        for entry in block:
            if entry.path in seen:
                raise ValueError(f"{path}: expected each picture once, found {entry.path} again in line {entry.line}")
            seen.add(entry.path)
            if (file := _find_picture(root, entry.path)) is None:
                raise ValueError(f"{path}: expected {entry.path} below {root}, found none, in line {entry.line}")
            pictures.append(file.read_bytes())
        yield FeatureRows(np.array([ids[entry.path] for entry in block]), pictures, [entry.labels for entry in block])


def _find_picture(root: Path, path: str) -> Path | None:
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "..")]
    candidates = (root.joinpath(*parts[skipped:]) for skipped in range(len(parts)))
    return next((file for file in candidates if file.is_file()), None)
