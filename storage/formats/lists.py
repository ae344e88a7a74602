"""Lists of images, as published with HashNet (Cao et al., ICCV 2017): lines `path l1 l2 ... lc`, each l 0 or 1.

Lines `path l` with one number, the class, are also read. A folder contains database.txt and, for training rows and
queries, train.txt and test.txt. An image in several lists has one id, its position in database.txt, so that queries are
recognized in the database.
"""

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
    numbers: list[int]
    line: int  # counted from 1


def read_entries(path: str | Path) -> list[Entry]:
    """Return the lines of a list.

    Raises ValueError for lines of different lengths, for labels that are not numbers >= 0, and for lines with several
    labels if they are not 0 or 1.
    """
    entries: list[Entry] = []
    width = 0
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        for line, text in enumerate(file, 1):
            name, *values = text.split() or ("",)
            if not name:
                continue
            width = width or len(values)
            if not values or len(values) != width or not _are_labels(values):
                expected = f"a path and {width or 'some'} labels of 0 or 1" if width != 1 else "a path and a class"
                raise ValueError(f"{path}: expected {expected}, found {text.strip()[:80]!r} in line {line}")
            entries.append(Entry(name, [int(value) for value in values], line))
    if not entries:
        raise ValueError(f"{path}: expected lines of a path and labels, found none")
    return entries


def _are_labels(values: list[str]) -> bool:
    return not set(values) - {"0", "1"} or (len(values) == 1 and values[0].isascii() and values[0].isdigit())


def read_labels(
    lists: Mapping[str, list[Entry]], paths: Mapping[str, Path], labels_as: str | None
) -> dict[str, list[list[int]]]:
    """Return the labels of each line of each list: its class, or the positions of the ones.

    Parameters
    ----------
    lists, paths
        Entries and path of each list, by split.
    labels_as
        "multi-hot", or "values": the single number of each line is a class. None: the numbers decide.

    Raises
    ------
    ValueError
        If lists have lines of different lengths, if labels_as is None and each line has a single number 0 or 1, or if
        the numbers cannot be read as `labels_as` requires.
    """
    width = len(lists["base"][0].numbers)
    for split, entries in lists.items():
        if len(entries[0].numbers) != width:
            found = f"{len(entries[0].numbers)} in {paths[split]}"
            raise ValueError(f"expected {width} labels in each line, as in {paths['base']}, found {found}")
    binary = all(set(entry.numbers) <= {0, 1} for entries in lists.values() for entry in entries)
    if width == 1 and binary and labels_as is None:
        raise ValueError(
            f"{paths['base']}: one number 0 or 1 in each line can be a class, or a label that a picture has or lacks: "
            "pass --labels-as values or --labels-as multi-hot"
        )
    if (labels_as == "values" and width > 1) or (labels_as == "multi-hot" and not binary):
        found = f"{width} in each line" if width > 1 else "other numbers"
        expected = "one class in each line" if width > 1 else "labels of 0 and 1"
        raise ValueError(f"{paths['base']}: expected {expected} by --labels-as {labels_as}, found {found}")
    classes = width == 1 and labels_as != "multi-hot"
    return {
        split: [e.numbers if classes else [i for i, number in enumerate(e.numbers) if number] for e in entries]
        for split, entries in lists.items()
    }


def ids_of_paths(lists: Mapping[str, list[Entry]], first: Mapping[str, int]) -> dict[str, int]:
    """Return the id of each path: its position in the first list that contains it, plus the first id of that list."""
    ids: dict[str, int] = {}
    for split, entries in lists.items():
        for position, entry in enumerate(entries):
            ids.setdefault(entry.path, first[split] + position)
    return ids


def read_pictures(
    path: str | Path, entries: list[Entry], ids: Mapping[str, int], labels: list[list[int]]
) -> Iterator[FeatureRows]:
    """Yield the rows of a list, in blocks, given the labels of each entry.

    Images are searched below the folder of the list. If a path leads elsewhere, for example because the list was made
    on another machine, its longest suffix that exists below the folder is used. Raises ValueError for an image that is
    missing or listed twice.
    """
    root, seen = Path(path).parent, set[str]()
    for start in range(0, len(entries), BLOCK_ROWS):
        block = entries[start : start + BLOCK_ROWS]
        files = []
        for entry in block:
            if entry.path in seen:
                raise ValueError(f"{path}: expected each picture once, found {entry.path} again in line {entry.line}")
            seen.add(entry.path)
            if (file := _find_picture(root, entry.path)) is None:
                raise ValueError(f"{path}: expected {entry.path} below {root}, found none, in line {entry.line}")
            files.append(file)
        pictures, names = [file.read_bytes() for file in files], [str(file) for file in files]
        block_ids = np.array([ids[entry.path] for entry in block])
        yield FeatureRows(block_ids, pictures, labels[start : start + BLOCK_ROWS], names)


def _find_picture(root: Path, path: str) -> Path | None:
    for spelled in dict.fromkeys((path, path.replace("\\", "/"))):  # as on Windows
        parts = [part for part in PurePosixPath(spelled).parts if part not in ("/", "..")]
        candidates = (root.joinpath(*parts[skipped:]) for skipped in range(len(parts)))
        if file := next((file for file in candidates if file.is_file()), None):
            return file
    return None
