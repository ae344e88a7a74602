"""The named datasets: where each comes from, how it is split, and its rows as its files hold them."""

import difflib

from .catalogue import DATASETS, LEARN, QUERY, File, NamedDataset, Split
from .locate import SAMPLE, locate_or_fetch, provenance
from .reading import groundtruth, lists_of, picture_lists, rows

__all__ = [
    "DATASETS",
    "LEARN",
    "QUERY",
    "SAMPLE",
    "Dataset",
    "File",
    "Split",
    "get",
    "groundtruth",
    "lists_of",
    "locate_or_fetch",
    "names",
    "picture_lists",
    "provenance",
    "rows",
]


def names() -> list[str]:
    """All names, sorted."""
    return sorted(DATASETS)


def get(name: str) -> NamedDataset:
    """The dataset of that name; ValueError, with the closest names, where there is none."""
    if name not in DATASETS:
        close = difflib.get_close_matches(name.lower(), DATASETS, n=4, cutoff=0.4) or names()
        raise ValueError(f"expected the name of a dataset, found {name!r}: did you mean {' or '.join(close)}?")
    return DATASETS[name]
