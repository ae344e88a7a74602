"""Named datasets: a catalogue of their sources and splits, and functions that find, download and read their files."""

import difflib

from .catalogue import DATASETS, LEARN, QUERY, NamedDataset, PublishedFile, Split
from .locate import SAMPLE, locate_or_fetch, provenance
from .reading import find_lists, number_rows, read_groundtruth, read_picture_lists, read_split

__all__ = [
    "DATASETS",
    "LEARN",
    "QUERY",
    "SAMPLE",
    "NamedDataset",
    "PublishedFile",
    "Split",
    "find_lists",
    "get",
    "locate_or_fetch",
    "names",
    "number_rows",
    "provenance",
    "read_groundtruth",
    "read_picture_lists",
    "read_split",
]


def names() -> list[str]:
    """Return the names of all datasets, sorted."""
    return sorted(DATASETS)


def get(name: str) -> NamedDataset:
    """Return the dataset of that name. Raises LookupError, with the closest names, if there is none.

    >>> get("sample").splits["base"].d
    128
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name.lower(), DATASETS, n=4, cutoff=0.4) or names()
        raise LookupError(f"expected the name of a dataset, found {name!r}: did you mean {' or '.join(close)}?")
    return DATASETS[name]
