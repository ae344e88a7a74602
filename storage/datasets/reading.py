"""The rows of a located dataset, checked against what the catalogue says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from hashing.mapreduce import Array
from hashing.statistics import keyed_hash

from ..formats import FeatureRows, cifar, hdf5, idx, lists, vecs
from . import multimodal
from .catalogue import LEARN, QUERY, NamedDataset, Split

SEED = 0  # of the keyed hash that makes one row in ten a query
PARQUET_ROWS = 4096


def rows(dataset: NamedDataset, split: str, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    """The rows of a split, in blocks of a few MB. files: what locate_or_fetch returned.

    Raises ValueError for an unknown split and for files that are damaged or have other rows than they should.
    """
    if split not in dataset.splits:
        raise ValueError(f"{dataset.name}: expected a split of {', '.join(dataset.splits)}, found {split!r}")
    return _checked(dataset, split, _READERS[dataset.format](dataset.splits[split], files))


def groundtruth(dataset: NamedDataset, files: Mapping[str, Path]) -> Array | None:
    """(q, k) int64 ids of the nearest base rows of each query, nearest first; None where the dataset has none."""
    if dataset.truth not in files:
        return None
    path, query, n = files[dataset.truth], dataset.splits["query"], dataset.splits["base"].n
    if dataset.format == "vecs":
        blocks = vecs.read_vecs(path, _member(path, dataset.truth))
    elif dataset.format == "hdf5":
        if (metric := hdf5.metric(path)) not in (None, dataset.metric):
            raise ValueError(f"{path}: expected neighbours of distance {dataset.metric}, found {metric}")
        blocks = hdf5.read_hdf5(path, "neighbors")
    else:
        shards = _parquet(Split(dataset.truth, query.n, array="neighbours"), files)
        blocks = (np.asarray(block.x) for block in shards)
    ids = np.concatenate(list(blocks)).astype(np.int64)
    if len(ids) != query.n or ids.min() < 0 or ids.max() >= n:
        found = f"{len(ids)} rows of {ids.min()}..{ids.max()}"
        raise ValueError(f"{path}: expected the neighbours of {query.n} queries among ids 0..{n - 1}, found {found}")
    return ids


def _checked(dataset: NamedDataset, split: str, blocks: Iterator[FeatureRows]) -> Iterator[FeatureRows]:
    expected, n = dataset.splits[split], 0
    where = f"{dataset.name}, split {split} ({expected.file})"
    for block in blocks:
        found = block.x.shape[1:] if isinstance(block.x, np.ndarray) else None
        if expected.d and found != (expected.d,):
            raise ValueError(f"{where}: expected vectors of dimension {expected.d}, found {found} in row {n}")
        n += len(block.ids)
        if n > expected.n > 0:
            break
        yield block
    if n != expected.n > 0:
        raise ValueError(f"{where}: expected {expected.n} rows, found {'more' if n > expected.n else n}")


def _numbered(blocks: Iterator[Array], first: int) -> Iterator[FeatureRows]:
    for x in blocks:
        yield FeatureRows(np.arange(first, first + len(x)), x)
        first += len(x)


def _member(path: Path, file: str) -> str | None:
    return file if path.name.endswith(".tar.gz") else None


def _vecs(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    path = files[split.file]
    return _numbered(vecs.read_vecs(path, _member(path, split.file)), split.first_id)


def _hdf5(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    return _numbered(hdf5.read_hdf5(files[split.file], split.array), split.first_id)


def _idx(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    labels = np.concatenate(list(idx.read_idx(files[split.labels])))
    if labels.shape != (split.n,):
        raise ValueError(f"{files[split.labels]}: expected {split.n} labels, found sizes {labels.shape}")
    pictures = (x.reshape(len(x), -1) for x in idx.read_idx(files[split.file]))
    for ids, x, _ in _numbered(pictures, split.first_id):
        at = ids[0] - split.first_id
        yield FeatureRows(ids, x, labels[at : at + len(x), None].tolist())


def _cifar(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    first = split.first_id
    for file in (split.file, *split.more):
        for block in cifar.read_cifar(files[file], _member(files[file], file), split.classes):
            yield block._replace(ids=first + block.ids)
        first += int(block.ids[-1]) + 1


def _lists(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    return picture_lists({name: files[file] for name, file in lists.FILES.items()})[_SPLIT[split.file]]


def lists_of(folder: str) -> dict[str, Path]:
    """The lists of pictures that a local folder holds, by split; none where there is no database.txt."""
    found = {split: Path(folder) / file for split, file in lists.FILES.items()}
    return {split: path for split, path in found.items() if path.is_file()} if found["base"].is_file() else {}


def picture_lists(paths: Mapping[str, Path]) -> dict[str, Iterator[FeatureRows]]:
    """The rows of each split, of the lists of a folder: base, and learn and query where there are any."""
    lines = {split: lists.entries(path) for split, path in paths.items()}
    known = lists.ids(lines, {"base": 0, "learn": LEARN, "query": QUERY})
    return {split: lists.read_pictures(path, lines[split], known) for split, path in paths.items()}


def _parquet(split: Split, files: Mapping[str, Path]) -> Iterator[FeatureRows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = files[split.file]
    columns = [name for name in ("id", split.array, split.labels, *multimodal.COLUMNS.get(split.view, ())) if name]
    rarity = multimodal.rarities(_said(path, columns)) if split.view else np.zeros(0)
    for shard in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        try:
            with pq.ParquetFile(shard) as file:
                if missing := set(columns) - set(file.schema_arrow.names):
                    found = ", ".join(file.schema_arrow.names)
                    raise ValueError(f"{shard}: expected the columns {', '.join(sorted(missing))}, found {found}")
                for batch in file.iter_batches(PARQUET_ROWS, columns=columns):
                    block = _part(_rows(batch, split, rarity), split)
                    if len(block.ids):
                        yield block
        except pa.ArrowInvalid as error:
            raise ValueError(f"{shard}: expected a Parquet file, found {error}") from None


def _said(path: Path, columns: list[str]) -> Iterator[str]:
    """What is said of each row of the base part: queries do not tell which words are rare."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(PARQUET_ROWS, columns=[c for c in columns if c != "image"]):
        base = ~_of_queries(batch["id"].to_numpy())
        yield from compress(multimodal.texts(batch), base)


def _rows(batch: Any, split: Split, rarity: Array) -> FeatureRows:
    """A record batch: lists of numbers become an (n, d) array, a single label a list of one."""
    labels = label_lists(batch[split.labels]) if split.labels else None
    if split.view:
        return multimodal.viewed(batch, split.view, rarity, labels or [])
    x = batch[split.array]
    vectors = hasattr(x.type, "list_size")
    values = x.flatten().to_numpy().reshape(len(x), x.type.list_size) if vectors else x.to_pylist()
    return FeatureRows(batch["id"].to_numpy(), values, labels)


def label_lists(column: Any) -> list[Any]:
    """The labels of each row; a single one is a list of one."""
    labels: list[Any] = column.to_pylist()
    return [[label] for label in labels] if labels and isinstance(labels[0], str) else labels


def _part(block: FeatureRows, split: Split) -> FeatureRows:
    """The rows that a keyed hash of their ids puts into the split's part; all where no part is named."""
    if not split.hashed:
        return block
    keep = _of_queries(block.ids) == (split.hashed == "query")
    x: Any = block.x[keep] if isinstance(block.x, np.ndarray) else list(compress(block.x, keep))
    labels: Any = list(compress(block.labels or (), keep)) or None
    return FeatureRows(block.ids[keep] + split.first_id, x, labels)


def _of_queries(ids: Array) -> Array:
    chosen: Array = keyed_hash(ids, SEED) < (1 << 64) // 10
    return chosen


_SPLIT = {file: split for split, file in lists.FILES.items()}
_READERS = {"vecs": _vecs, "idx": _idx, "hdf5": _hdf5, "parquet": _parquet, "cifar": _cifar, "lists": _lists}
