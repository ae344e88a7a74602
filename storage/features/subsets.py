"""Rows of a dataset drawn anew into splits, and written as a dataset of their own: each row as it was, by its id."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from ..files import filesystem, parquet
from ..formats import FeatureRows
from . import columns, deletions
from .dataset import Dataset, dataset_url, save_dataset, write_split
from .shard import Columns, FeatureShard, batch_rows


def labelled(shard: FeatureShard) -> tuple[Array, Array]:
    """(n,) ids and (n, c) multi-hot labels of a shard, without its rows. Its vocabulary says what the columns are."""
    ids, y = [np.zeros(0, np.int64)], [np.zeros((0, len(shard.vocabulary)), np.uint8)]
    for file in shard.files:
        wanted = [str(shard.columns.labels)]
        batches = parquet.read_batches(file.url, wanted)
        places = (columns.label_indices(batch[0], shard.vocabulary, file.url) for batch in batches)
        ids.append(shard.ids(file.url))
        y += [columns.multi_hot(part, len(shard.vocabulary)) for part in places]
    found = np.concatenate(ids)
    kept = ~np.isin(found, deletions.deleted_ids(shard.deleted))
    return found[kept], np.concatenate(y)[kept]


def write_subset(
    warehouse: str, name: str, dataset: Dataset, ids: Mapping[str, Array], sources: Sequence[str]
) -> Dataset:
    """The dataset of a name whose splits are rows of some ids, from some splits of another."""
    shards = [shard for source in sources for shard in dataset.shards(source)]
    root = filesystem.join(dataset_url(warehouse, name), "drawn")
    urls = {split: filesystem.join(root, split) for split in ids}
    for split, wanted in ids.items():
        write_split(urls[split], _rows(shards, wanted))
    drawn = Dataset(
        name=name, kind=dataset.kind, dim=dataset.dim, splits=urls,
        columns=Columns(x=dataset.kind, labels="labels"), source=f"drawn from {dataset.name}: {dataset.source}",
    )  # fmt: skip
    save_dataset(warehouse, drawn)
    return drawn


def _rows(shards: Sequence[FeatureShard], wanted: Array) -> Iterator[FeatureRows]:
    for shard in shards:
        for file in shard.files:
            ids, row = shard.ids(file.url), 0
            names = [shard.columns.x, str(shard.columns.labels)]
            for part in parquet.read_batches(file.url, names, batch_rows(shard.dim)):
                mine = ids[row : row + len(part)]
                kept = np.isin(mine, wanted)
                if kept.any():
                    labels = list(compress(part[1].to_pylist(), kept))
                    yield FeatureRows(
                        mine[kept], _as_they_are(part[0].take(np.flatnonzero(kept)), shard.dim, file.url), labels
                    )
                row += len(part)


def _as_they_are(column: Any, dim: int, where: str) -> Any:
    """Encoded pictures and texts as they are, vectors (n, dim) in the type they have."""
    if not hasattr(column.type, "value_type"):
        return column.to_pylist()
    x = columns.vectors(column, dim, where)
    return x.astype(np.uint8) if str(column.type.value_type) == "uint8" else x
