"""Query sets, which are sampled once per dataset and then fixed, and their cached exact neighbours."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hashing.mapreduce import Array, Batch

from . import warehouse as places
from .features import columns
from .files import filesystem, parquet


class QuerySet(NamedTuple):
    """Saved queries, and the labels of each: None if the dataset had no labels when they were sampled."""

    ids: Array
    x: Array
    labels: list[list[str | int]] | None

    def batch(self, vocabulary: Sequence[str | int]) -> tuple[Batch, tuple[int, ...]]:
        """Return the queries, and the labels that their y has columns for, as positions in a table's vocabulary.

        These are the labels that a query has; no row of the table has labels outside its vocabulary.
        """
        if not vocabulary or self.labels is None:
            return Batch(self.ids, self.x), ()
        position = {label: j for j, label in enumerate(vocabulary)}
        found = [[position[label] for label in labels if label in position] for labels in self.labels]
        classes = sorted(set().union(*found)) or [0]
        y = np.zeros((len(found), len(classes)), np.uint8)
        for row, positions in zip(y, found, strict=True):
            row[np.searchsorted(classes, positions)] = 1
        return Batch(self.ids, self.x, y), tuple(classes)


def load_queries(warehouse: str, dataset: str) -> QuerySet | None:
    """Return the saved query set of a dataset, or None."""
    if not (url := current_queries(warehouse, dataset)):
        return None
    table = parquet.read_table(url)
    x = columns.vectors(table["vector"].combine_chunks(), table.schema.field("vector").type.list_size, url)
    labels = table["labels"].to_pylist() if "labels" in table.column_names else None
    return QuerySet(table["id"].to_numpy(), x, labels)


def save_queries(warehouse: str, dataset: str, queries: QuerySet, redraw: bool = False) -> None:
    """Save a query set, unless the dataset has one already and `redraw` is off. Of two runs, the first one wins."""
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(queries.x.reshape(-1)), queries.x.shape[1])
    arrays = {"id": queries.ids, "vector": vectors}
    if queries.labels is not None:
        arrays["labels"] = pa.array(queries.labels)
    _save(warehouse, dataset, pa.table(arrays), redraw)


def remove_queries(warehouse: str, dataset: str, ids: Array) -> int:
    """Remove queries by id from the saved query set of a dataset, and return their number."""
    import pyarrow as pa

    if not (url := current_queries(warehouse, dataset)):
        return 0
    table = parquet.read_table(url)
    removed = np.isin(table["id"].to_numpy(), ids)
    if removed.any():
        _save(warehouse, dataset, table.filter(pa.array(~removed)), True)
    return int(removed.sum())


def forget_queries(warehouse: str, dataset: str) -> None:
    """Make a dataset one without a saved query set: the next run samples another."""
    if current_queries(warehouse, dataset):
        filesystem.remove(places.CURRENT_QUERIES.url(warehouse, dataset=dataset))


def current_queries(warehouse: str, dataset: str) -> str | None:
    """Return the URL of the saved query set of a dataset, or None."""
    pointer = places.CURRENT_QUERIES.url(warehouse, dataset=dataset)
    if not filesystem.exists(pointer):
        return None
    digest = json.loads(filesystem.read_bytes(pointer))["digest"]
    return places.QUERIES.url(warehouse, dataset=dataset, digest=digest)


def cached_neighbours(warehouse: str, digest: str) -> tuple[Array, Array] | None:
    """Return the exact neighbours cached under a digest, ids (q, k) and squared distances (q, k), or None."""
    url = places.GROUND_TRUTH.url(warehouse, digest=digest)
    if not filesystem.touch(url):
        return None
    table = parquet.read_table(url)
    shape = (len(table), table.schema.field("neighbours").type.list_size)
    ids, distances = (table[name].combine_chunks().flatten().to_numpy() for name in ("neighbours", "distances"))
    return ids.reshape(shape), distances.reshape(shape)


def cache_neighbours(warehouse: str, digest: str, ids: Array, distances: Array) -> None:
    """Cache exact neighbours for `cached_neighbours`: ids (q, k) and squared distances (q, k)."""
    import pyarrow as pa

    lists = [pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(a)), ids.shape[1]) for a in (ids, distances)]
    content = parquet.to_bytes(pa.table(lists, ["neighbours", "distances"]))
    filesystem.write_bytes(places.GROUND_TRUTH.url(warehouse, digest=digest), content)


def _save(warehouse: str, dataset: str, table: Any, replace: bool) -> None:
    content = parquet.to_bytes(table)
    digest = hashlib.sha256(content).hexdigest()
    filesystem.write_bytes(places.QUERIES.url(warehouse, dataset=dataset, digest=digest), content)
    pointer, target = places.CURRENT_QUERIES.url(warehouse, dataset=dataset), json.dumps({"digest": digest}).encode()
    if replace:
        filesystem.write_bytes(pointer, target)
    else:
        filesystem.create_exclusive(pointer, target)
