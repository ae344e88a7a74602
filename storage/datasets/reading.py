"""The rows of a located dataset, checked against what the catalogue says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from hashing.mapreduce import Array
from hashing.statistics import keyed_hash

from ..formats import Rows, hdf5, idx, vecs
from .catalogue import Dataset, Split

SEED = 0  # of the keyed hash that makes one row in ten a query
PARQUET_ROWS = 4096


def rows(dataset: Dataset, split: str, files: Mapping[str, Path]) -> Iterator[Rows]:
    """The rows of a split, in blocks of a few MB. files: what locate_or_fetch returned.

    Raises ValueError for an unknown split and for files that are damaged or have other rows than they should.
    """
    if split not in dataset.splits:
        raise ValueError(f"{dataset.name}: expected a split of {', '.join(dataset.splits)}, found {split!r}")
    return _checked(dataset, split, _READERS[dataset.format](dataset.splits[split], files))


def groundtruth(dataset: Dataset, files: Mapping[str, Path]) -> Array | None:
    """(q, k) int64 ids of the nearest base rows of each query, nearest first; None where the dataset has none."""
    if dataset.truth not in files:
        return None
    path, query, n = files[dataset.truth], dataset.splits["query"], dataset.splits["base"].n
    if dataset.format == "vecs":
        blocks = vecs.read(path, _member(path, dataset.truth))
    elif dataset.format == "hdf5":
        if (metric := hdf5.metric(path)) not in (None, dataset.metric):
            raise ValueError(f"{path}: expected neighbours of distance {dataset.metric}, found {metric}")
        blocks = hdf5.read(path, "neighbors")
    else:
        shards = _parquet(Split(dataset.truth, query.n, array="neighbours"), files)
        blocks = (np.asarray(block.x) for block in shards)
    ids = np.concatenate(list(blocks)).astype(np.int64)
    if len(ids) != query.n or ids.min() < 0 or ids.max() >= n:
        found = f"{len(ids)} rows of {ids.min()}..{ids.max()}"
        raise ValueError(f"{path}: expected the neighbours of {query.n} queries among ids 0..{n - 1}, found {found}")
    return ids


def _checked(dataset: Dataset, split: str, blocks: Iterator[Rows]) -> Iterator[Rows]:
    expected, n = dataset.splits[split], 0
    where = f"{dataset.name}, split {split} ({expected.file})"
    for block in blocks:
        found = block.x.shape[1:] if isinstance(block.x, np.ndarray) else None
        if expected.d and found != (expected.d,):
            raise ValueError(f"{where}: expected vectors of dimension {expected.d}, found {found} in row {n}")
        n += len(block.ids)
        if n > expected.n:
            break
        yield block
    if n != expected.n:
        raise ValueError(f"{where}: expected {expected.n} rows, found {'more' if n > expected.n else n}")


def _numbered(blocks: Iterator[Array], first: int) -> Iterator[Rows]:
    for x in blocks:
        yield Rows(np.arange(first, first + len(x)), x)
        first += len(x)


def _member(path: Path, file: str) -> str | None:
    return file if path.name.endswith(".tar.gz") else None


def _vecs(split: Split, files: Mapping[str, Path]) -> Iterator[Rows]:
    path = files[split.file]
    return _numbered(vecs.read(path, _member(path, split.file)), split.first_id)


def _hdf5(split: Split, files: Mapping[str, Path]) -> Iterator[Rows]:
    return _numbered(hdf5.read(files[split.file], split.array), split.first_id)


def _idx(split: Split, files: Mapping[str, Path]) -> Iterator[Rows]:
    labels = np.concatenate(list(idx.read(files[split.labels])))
    if labels.shape != (split.n,):
        raise ValueError(f"{files[split.labels]}: expected {split.n} labels, found sizes {labels.shape}")
    pictures = (x.reshape(len(x), -1) for x in idx.read(files[split.file]))
    for ids, x, _ in _numbered(pictures, split.first_id):
        at = ids[0] - split.first_id
        yield Rows(ids, x, labels[at : at + len(x), None].tolist())


def _parquet(split: Split, files: Mapping[str, Path]) -> Iterator[Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = files[split.file]
    columns = [name for name in ("id", split.array, split.labels) if name]
    for shard in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        try:
            with pq.ParquetFile(shard) as file:
                if missing := set(columns) - set(file.schema_arrow.names):
                    found = ", ".join(file.schema_arrow.names)
                    raise ValueError(f"{shard}: expected the columns {', '.join(sorted(missing))}, found {found}")
                for batch in file.iter_batches(PARQUET_ROWS, columns=columns):
                    block = _part(_rows(batch, split), split.hashed)
                    if len(block.ids):
                        yield block
        except pa.ArrowInvalid as error:
            raise ValueError(f"{shard}: expected a Parquet file, found {error}") from None


def _rows(batch: Any, split: Split) -> Rows:
    """A record batch: lists of numbers become an (n, d) array, a single label a list of one."""
    x = batch[split.array]
    vectors = hasattr(x.type, "list_size")
    values = x.flatten().to_numpy().reshape(len(x), x.type.list_size) if vectors else x.to_pylist()
    labels = batch[split.labels].to_pylist() if split.labels else None
    if labels and isinstance(labels[0], str):
        labels = [[label] for label in labels]
    return Rows(batch["id"].to_numpy(), values, labels)


def _part(block: Rows, part: str) -> Rows:
    """The rows that a keyed hash of their ids puts into the part; all where no part is named."""
    if not part:
        return block
    keep = (keyed_hash(block.ids, SEED) < (1 << 64) // 10) == (part == "query")
    x, labels = (list(compress(column, keep)) for column in (block.x, block.labels or ()))
    return Rows(block.ids[keep], x, labels or None)


_READERS = {"vecs": _vecs, "idx": _idx, "hdf5": _hdf5, "parquet": _parquet}
