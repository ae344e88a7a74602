"""Subsets of a dataset: rows selected by id, written unchanged as the splits of a new dataset."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress, pairwise
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from .. import warehouse as places
from ..files import filesystem
from ..formats import FeatureRows
from . import columns, deletions, media, rows
from .dataset import Dataset, dataset_exists, load_dataset, save_dataset, write_split
from .rows import Columns
from .shard import FeatureShard, batch_rows


def ids_and_labels(shard: FeatureShard) -> tuple[Array, Array]:
    """Return ids (n,) int64 and multi-hot labels (n, c) uint8 of a shard, c the size of its vocabulary.

    Reads only the id and label columns. Deleted rows are left out.
    """
    ids, y = [np.zeros(0, np.int64)], [np.zeros((0, len(shard.vocabulary)), np.uint8)]
    for file in shard.files:
        batches = rows.read_batches(file.url, [str(shard.columns.labels)], shard.columns)
        positions = (
            columns.label_indices(batch[0], shard.vocabulary, file.url, shard.columns.multi_hot) for batch in batches
        )
        ids.append(shard.ids(file.url))
        y += [columns.multi_hot_labels(labels, range(len(shard.vocabulary))) for labels in positions]
    all_ids = np.concatenate(ids)
    keep = ~np.isin(all_ids, deletions.deleted_ids(shard.deleted))
    return all_ids[keep], np.concatenate(y)[keep]


def labels_of_rows(shard: FeatureShard, ids: Array) -> dict[int, list[str | int]]:
    """Return the labels of the rows of a shard that have certain ids. Reads only the id and label columns."""
    found: dict[int, list[str | int]] = {}
    for url in shard.urls:
        all_ids, row = shard.ids(url), 0
        for part in rows.read_batches(url, [str(shard.columns.labels)], shard.columns):
            mine = all_ids[row : row + len(part)]
            places = np.flatnonzero(np.isin(mine, ids))
            offsets, values = columns.labels_by_row(part[0].take(places), url, shard.columns.multi_hot)
            of_rows = [values[start:stop].to_pylist() for start, stop in pairwise(offsets)]
            found |= zip(mine[places].tolist(), of_rows, strict=True)
            row += len(part)
    return found


def known_subset(warehouse: str, name: str) -> Dataset | None:
    """Return a subset that was written before, or None; garbage collection then sees that it is in use."""
    if not dataset_exists(warehouse, name):
        return None
    subset = load_dataset(warehouse, name)
    save_dataset(warehouse, subset)  # updates its time
    return subset


def write_subset(
    warehouse: str, name: str, dataset: Dataset, drawn: Mapping[str, tuple[Sequence[FeatureShard], Array]]
) -> Dataset:
    """Write and return a dataset whose splits are rows of another dataset.

    Parameters
    ----------
    name
        Name of the new dataset.
    dataset
        The dataset to read.
    drawn
        New split -> shards of `dataset`, and the ids (m,) int64 of the rows to take from them.
    """
    root = places.SUBSET_ROWS.url(warehouse, dataset=name)
    urls = {split: filesystem.join(root, split) for split in drawn}
    for split, (shards, wanted) in drawn.items():
        write_split(urls[split], _select(shards, wanted))
    subset = Dataset(
        name=name, kind=dataset.kind, metric=dataset.metric, dim=dataset.dim, splits=urls,
        columns=Columns(x=dataset.kind, labels="labels" if dataset.columns.labels else None),
        queries_in_base=dataset.queries_in_base, source=f"drawn from {dataset.name}: {dataset.source}",
    )  # fmt: skip
    save_dataset(warehouse, subset)
    return subset


def _select(shards: Sequence[FeatureShard], wanted: Array) -> Iterator[FeatureRows]:
    for shard in shards:
        for file in shard.files:
            ids, row = shard.ids(file.url), 0
            names, width = [shard.columns.x], shard.columns.multi_hot
            names += [shard.columns.labels] if shard.columns.labels else []
            for part in rows.read_batches(file.url, names, shard.columns, batch_rows(shard.dim)):
                part_ids = ids[row : row + len(part)]
                keep = np.isin(part_ids, wanted)
                if keep.any():
                    x = _values(part[0].take(np.flatnonzero(keep)), shard, file.url)
                    labels = None
                    if shard.columns.labels:
                        offsets, values = columns.labels_by_row(part[1], file.url, width)
                        by_row = [values[start:stop].to_pylist() for start, stop in pairwise(offsets)]
                        labels = list(compress(by_row, keep))
                    yield FeatureRows(part_ids[keep], x, labels)
                row += len(part)


def _values(column: Any, shard: FeatureShard, where: str) -> Any:
    """Return encoded images and texts as lists, vectors as (n, dim) uint8 if the column holds uint8, else float32."""
    if shard.kind != "vector":
        return media.encoded(column).to_pylist()
    x = columns.vectors(column, shard.dim, where, dtype=shard.columns.dtype)
    stored = columns.number_lists(column, shard.columns.dtype, where).type.value_type
    return x.astype(np.uint8) if str(stored) == "uint8" else x
