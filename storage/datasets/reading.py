"""The rows of a named dataset, read from its files and checked against the catalogue."""

from collections.abc import Iterator, Mapping
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from hashing.mapreduce import Array
from hashing.statistics import keyed_hash

from ..features import columns
from ..files import parquet
from ..formats import FeatureRows, cifar, hdf5, idx, lists, vecs
from . import multimodal
from .catalogue import LEARN, QUERY, NamedDataset, Split

SEED = 0  # of the keyed hash that selects one row in ten as a query
PARQUET_ROWS = 4096


def read_split(dataset: NamedDataset, split: str, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    """Return the rows of a split, in blocks of a few MB, from the files that `locate_or_fetch` returned.

    Raises ValueError for an unknown split; during iteration, for damaged files and rows that differ from the catalogue.

    >>> from storage.datasets import get, locate_or_fetch
    >>> sample = get("sample")
    >>> next(read_split(sample, "query", locate_or_fetch(sample, Path(".")))).x.shape
    (500, 128)
    """
    if split not in dataset.splits:
        raise ValueError(f"{dataset.name}: expected a split of {', '.join(dataset.splits)}, found {split!r}")
    return _checked(dataset, split, _READERS[dataset.format](dataset.splits[split], files))


def read_groundtruth(dataset: NamedDataset, files: Mapping[str, Path]) -> Array | None:
    """Return ids (q, k) int64 of the nearest base rows of each query, nearest first; None if the dataset has none.

    Raises ValueError for damaged files, and if the neighbours do not match the queries and base rows of the catalogue.
    """
    if dataset.groundtruth not in files:
        return None
    path, query, n = files[dataset.groundtruth], dataset.splits["query"], dataset.splits["base"].n
    if dataset.format == "vecs":
        blocks = vecs.read_vecs(path, _member(path, dataset.groundtruth))
    elif dataset.format == "hdf5":
        if (metric := hdf5.stored_metric(path)) not in (None, dataset.metric):
            raise ValueError(f"{path}: expected neighbours by {dataset.metric} distance, found {metric}")
        blocks = hdf5.read_hdf5(path, "neighbors")
    elif dataset.format == "vectordbbench":
        blocks = _ordered_neighbours(path)
    else:
        shards = _parquet(Split(dataset.groundtruth, query.n, array="neighbours"), files)
        blocks = (np.asarray(block.x) for block in shards)
    ids = np.concatenate(list(blocks)).astype(np.int64)
    if len(ids) != query.n or ids.min() < 0 or ids.max() >= n:
        found = f"{len(ids)} rows of ids {ids.min()}..{ids.max()}"
        raise ValueError(f"{path}: expected the neighbours of {query.n} queries among ids 0..{n - 1}, found {found}")
    return ids


def _checked(dataset: NamedDataset, split: str, blocks: Iterator[FeatureRows]) -> Iterator[FeatureRows]:
    """Yield blocks. Raise ValueError if dimension or number of rows differ from the catalogue."""
    expected, n = dataset.splits[split], 0
    where = f"{dataset.name}, split {split} ({expected.file})"
    for block in blocks:
        shape = block.x.shape[1:] if isinstance(block.x, np.ndarray) else None
        if expected.d and shape != (expected.d,):
            raise ValueError(f"{where}: expected vectors of dimension {expected.d}, found {shape} in row {n}")
        n += len(block.ids)
        if n > expected.n > 0:
            break
        yield block
    if n != expected.n > 0:
        raise ValueError(f"{where}: expected {expected.n} rows, found {'more' if n > expected.n else n}")


def number_rows(blocks: Iterator[Array], first: int) -> Iterator[FeatureRows]:
    """Yield blocks (n, d) of vectors as rows with consecutive ids, starting at `first`."""
    for x in blocks:
        yield FeatureRows(np.arange(first, first + len(x)), x)
        first += len(x)


def _member(path: Path, file: str) -> str | None:
    return file if path.name.endswith(".tar.gz") else None


def _vecs(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    path = files[split.file]
    return number_rows(vecs.read_vecs(path, _member(path, split.file)), split.first_id)


def _hdf5(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    return number_rows(hdf5.read_hdf5(files[split.file], split.array), split.first_id)


def _idx(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    labels = np.concatenate(list(idx.read_idx(files[split.labels])))
    if labels.shape != (split.n,):
        raise ValueError(f"{files[split.labels]}: expected {split.n} labels, found sizes {labels.shape}")
    pictures = (x.reshape(len(x), -1) for x in idx.read_idx(files[split.file]))
    for ids, x, *_ in number_rows(pictures, split.first_id):
        at = ids[0] - split.first_id
        yield FeatureRows(ids, x, labels[at : at + len(x), None].tolist())


def _cifar(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    first = split.first_id
    for file in (split.file, *split.more_files):
        for block in cifar.read_cifar(files[file], _member(files[file], file), split.classes):
            yield block._replace(ids=first + block.ids)
        first += int(block.ids[-1]) + 1


def _lists(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    return read_picture_lists({name: files[file] for name, file in lists.FILES.items()})[_SPLIT[split.file]]


def find_lists(folder: str) -> dict[str, Path]:
    """Return the lists of images in a local folder, by split; empty if it has no database.txt."""
    paths = {split: Path(folder) / file for split, file in lists.FILES.items()}
    return {split: path for split, path in paths.items() if path.is_file()} if paths["base"].is_file() else {}


def read_picture_lists(
    paths: Mapping[str, Path], labels_as: str | None = "multi-hot"
) -> dict[str, Iterator[FeatureRows]]:
    """Return the rows of each split, given its list: base, and learn and query if they exist.

    `labels_as` is that of lists.read_labels.
    """
    entries = {split: lists.read_entries(path) for split, path in paths.items()}
    labels = lists.read_labels(entries, paths, labels_as)
    ids = lists.ids_of_paths(entries, {"base": 0, "learn": LEARN, "query": QUERY})
    return {split: lists.read_pictures(path, entries[split], ids, labels[split]) for split, path in paths.items()}


def _parquet(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    path = files[split.file]
    names = [name for name in ("id", split.array, split.labels, *multimodal.COLUMNS.get(split.modality, ())) if name]
    idf = multimodal.idf_weights(_base_texts(path, names)) if split.modality else np.zeros(0)
    for shard in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        for batch in parquet.read_batches(str(shard), names, PARQUET_ROWS):
            block = _select_part(_batch_rows(batch, split, idf), split)
            if len(block.ids):
                yield block


def _vectordbbench(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    for file in (split.file, *split.more_files):
        path = str(files[file])
        for part in parquet.read_batches(path, ["id", split.array], PARQUET_ROWS):
            ids = columns.ids(part["id"], path) + split.first_id
            yield FeatureRows(ids, columns.vectors(part[split.array], split.d or 0, path))


def _ordered_neighbours(path: Path) -> Iterator[Array]:
    """Yield the neighbours (q, k) int64 of queries, which the file has in any order."""
    table = parquet.read_table(str(path)).sort_by("id")
    yield np.array(table["neighbors_id"].to_pylist(), np.int64)


def _base_texts(path: Path, names: list[str]) -> Iterator[str]:
    """Yield the text of each base row: the document frequency of words does not include queries."""
    for batch in parquet.read_batches(str(path), [name for name in names if name != "image"], PARQUET_ROWS):
        base = ~_is_query(batch["id"].to_numpy())
        yield from compress(multimodal.texts(batch), base)


def _batch_rows(batch: Any, split: Split, idf: Array) -> FeatureRows:
    """Convert an Arrow record batch."""
    labels = _label_lists(batch[split.labels]) if split.labels else None
    if split.modality:
        return multimodal.modality_rows(batch, split.modality, idf, labels or [])
    x = batch[split.array]
    vectors = hasattr(x.type, "list_size")
    values = x.flatten().to_numpy().reshape(len(x), x.type.list_size) if vectors else x.to_pylist()
    return FeatureRows(batch["id"].to_numpy(), values, labels)


def _label_lists(column: Any) -> list[Any]:
    """Return a list of labels for each row of a column of lists, or of single labels."""
    labels: list[Any] = column.to_pylist()
    return [[label] for label in labels] if labels and isinstance(labels[0], str) else labels


def _select_part(block: FeatureRows, split: Split) -> FeatureRows:
    """Return the rows that the keyed hash of their ids assigns to the split's part; all rows if it has no part."""
    if not split.hash_part:
        return block
    keep = _is_query(block.ids) == (split.hash_part == "query")
    x: Any = block.x[keep] if isinstance(block.x, np.ndarray) else list(compress(block.x, keep))
    labels: Any = list(compress(block.labels or (), keep)) or None
    return FeatureRows(block.ids[keep] + split.first_id, x, labels)


def _is_query(ids: Array) -> Array:
    selected: Array = keyed_hash(ids, SEED) < (1 << 64) // 10
    return selected


_SPLIT = {file: split for split, file in lists.FILES.items()}
_READERS = {"vecs": _vecs, "idx": _idx, "hdf5": _hdf5, "parquet": _parquet, "cifar": _cifar, "lists": _lists,
    "vectordbbench": _vectordbbench,
}  # fmt: skip
