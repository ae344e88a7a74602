"""Sources of the user that are converted to shards, by their form: everything but Parquet, which is used in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from hashing.mapreduce import Array
from hashing.names import counted

from ..formats import FeatureRows, Kind, Metric, beir, bins, class_folders, hdf5, npy, vecs
from .catalogue import QUERY
from .reading import find_lists, number_rows, read_picture_lists

VECTOR_FILES: dict[str, Callable[[Path], Iterator[Array]]] = {
    ".fvecs": vecs.read_vecs,
    ".bvecs": vecs.read_vecs,
    ".npy": npy.read_npy_vectors,
    **dict.fromkeys(bins.DTYPES, bins.read_bin),
}
FORMS = (
    "Parquet files, or a folder of them",
    f"vectors in a file {', '.join(VECTOR_FILES)} or .hdf5 (.fvecs and .bvecs also with .gz)",
    "a folder of .npy files, or such a folder beside one of Parquet files with the same numbers",
    "a Hugging Face dataset on disk, or .arrow or .feather files",
    "WebDataset .tar files (without compression), or a folder of them",
    "a folder of pictures with a folder for each class",
    "a folder with HashNet's lists database.txt, train.txt and test.txt",
    "a folder with corpus.jsonl, queries.jsonl and qrels/test.tsv as in BEIR, or the same in .parquet",
)


class Source(NamedTuple):
    """The rows of a source, and what its files say of them."""

    splits: dict[str, Iterator[FeatureRows]]
    metric: Metric | None = None  # None: the files do not say
    kind: Kind = "vector"
    queries_in_base: bool = False
    keyed: bool = False  # whether rows have keys
    note: str = ""  # for the user, after the source
    likely_metric: Metric | None = None  # that the neighbours show, if the files do not say


def suffix_of(source: str) -> str:
    """Return the suffix of a path or URL in lower case; of a .gz that can be read, the one before it."""
    path = Path(source.lower())
    inner = Path(path.stem).suffix
    return inner if path.suffix == ".gz" and inner in vecs.DTYPES else path.suffix


def read_vector_file(path: str) -> Iterator[Array] | None:
    """Return the vectors of a local file, in blocks; None for a file of another suffix than those of VECTOR_FILES."""
    reader = VECTOR_FILES.get(suffix_of(path))
    return reader(Path(path)) if reader else None


def open_source(source: str, query: str | None, labels_as: str | None) -> Source | None:
    """Return the rows of a local source that is converted to shards; None for any other, such as Parquet.

    Parameters
    ----------
    source
        Path of a file or folder.
    query
        Path of the queries, in the same form; for forms that hold their own queries it must be None.
    labels_as
        How the user says that the labels of lists are to be read: "values" or "multi-hot"; None: not said.

    Raises
    ------
    ValueError
        If the files have another form than their name says, if their labels can be read in two ways, or if queries are
        given for a form that holds its own.
    """
    suffix = "" if Path(source).is_dir() else suffix_of(source)
    if lists := find_lists(source):
        _refuse_query(query, f"{source} has its own list test.txt")
        return Source(read_picture_lists(lists, labels_as), kind="image", queries_in_base=True)
    if judged := beir.find_test_set(source):
        _refuse_query(query, f"{source} has its own queries")
        return Source(beir.read_test_set(judged), kind="text", queries_in_base=True, keyed=True)
    paths = {"base": Path(source)} | ({"query": Path(query)} if query else {})
    is_vectors, are_classes = suffix in (".hdf5", ".h5", *VECTOR_FILES), class_folders.find_classes(source)
    if labels_as and (is_vectors or are_classes):
        raise ValueError(f"--labels-as: {source} has no labels of 0 and 1, found {labels_as}: leave it out")
    if suffix in (".hdf5", ".h5"):
        _refuse_query(query, f"{source} has its own array test")
        blocks = {"base": hdf5.read_hdf5(source, "train"), "query": hdf5.read_hdf5(source, "test")}
        metric = hdf5.stored_metric(source)
        likely = None if metric else hdf5.metric_of_neighbours(source)
        return Source(_numbered(blocks), metric, likely_metric=likely)
    if suffix in VECTOR_FILES:
        if query and suffix_of(query) not in VECTOR_FILES:
            raise ValueError(f"expected queries in a file {', '.join(VECTOR_FILES)}, like {source}, found {query}")
        return Source(_numbered({split: VECTOR_FILES[suffix_of(str(path))](path) for split, path in paths.items()}))
    if are_classes:
        if query and not class_folders.find_classes(query):
            raise ValueError(f"expected a folder of pictures for each class, like {source}, found {query}")
        others = [str(name) for path in paths.values() for name in class_folders.check_class_folders(path)]
        note = ""
        if others:
            note = f"; without {counted(len(others), 'file')} that are no pictures of a class, such as {others[0]}"
        first = {"base": 0, "query": QUERY}
        rows = {split: class_folders.read_classes(path, first[split]) for split, path in paths.items()}
        return Source(rows, kind="image", note=note)
    return None


def _refuse_query(query: str | None, reason: str) -> None:
    if query:
        raise ValueError(f"--query: {reason}, found {query}: leave it out")


def _numbered(blocks: Mapping[str, Iterator[Array]]) -> dict[str, Iterator[FeatureRows]]:
    """Number the rows of files without ids: base rows from 0, queries from 2^41."""
    return {split: number_rows(rows, QUERY if split == "query" else 0) for split, rows in blocks.items()}
