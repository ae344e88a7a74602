"""Named datasets: a catalogue of their sources and splits, and functions that find, download and read their files."""

from hashing.names import hint

from .catalogue import DATASETS, LEARN, QUERY, NamedDataset, PublishedFile, Split
from .folders import find_splits
from .hub import fetch_from_hub, is_on_hub
from .locate import SAMPLE, locate_or_fetch, provenance
from .reading import number_rows, read_groundtruth, read_split
from .sources import FORMS, VECTOR_FILES, Source, open_source, read_vector_file

__all__ = [
    "DATASETS",
    "FORMS",
    "LEARN",
    "QUERY",
    "SAMPLE",
    "VECTOR_FILES",
    "NamedDataset",
    "PublishedFile",
    "Source",
    "Split",
    "fetch_from_hub",
    "find_splits",
    "get",
    "is_on_hub",
    "locate_or_fetch",
    "names",
    "number_rows",
    "open_source",
    "provenance",
    "read_groundtruth",
    "read_split",
    "read_vector_file",
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
        meant = hint(name, names(), "the named datasets are")
        raise LookupError(f"expected the name of a dataset, found {name!r}: {meant}")
    return DATASETS[name]
