"""Query sets drawn once and frozen, and the exact neighbours that were computed for them."""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np

from hashing.mapreduce import Array, Batch

from . import warehouse as places
from .features import columns
from .files import filesystem


def frozen(warehouse: str, dataset: str, vocabulary: tuple[str | int, ...] = ()) -> Batch | None:
    """The query set that was drawn for a dataset, if one was; y in the vocabulary."""
    if not (url := current(warehouse, dataset)):
        return None
    table = _read(url)
    x = columns.vectors(table["vector"].combine_chunks(), table.schema.field("vector").type.list_size, url)
    y = None
    if vocabulary and "labels" in table.column_names:
        places = {label: place for place, label in enumerate(vocabulary)}
        y = np.zeros((len(table), len(vocabulary)), np.uint8)
        for row, labels in zip(y, table["labels"].to_pylist(), strict=True):
            row[[places[label] for label in labels if label in places]] = 1  # one that no row has matches nothing
    return Batch(table["id"].to_numpy(), x, y)


def freeze(
    warehouse: str, dataset: str, queries: Batch, vocabulary: tuple[str | int, ...] = (), redraw: bool = False
) -> None:
    """Keep a drawn query set. Of two runs that draw at once the first wins; only a redraw replaces."""
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(queries.x.reshape(-1)), queries.x.shape[1])
    named = {"id": queries.ids, "vector": vectors}
    if queries.y is not None:  # as the labels themselves: places are those of one table's vocabulary
        named["labels"] = pa.array([[vocabulary[place] for place in np.flatnonzero(row)] for row in queries.y])
    _keep(warehouse, dataset, pa.table(named), redraw)


def leave_out(warehouse: str, dataset: str, ids: Array) -> int:
    """Take the rows of some ids out of the query set that was drawn for a dataset. How many there were."""
    import pyarrow as pa

    if not (url := current(warehouse, dataset)):
        return 0
    table = _read(url)
    kept = ~np.isin(table["id"].to_numpy(), ids)
    if not kept.all():
        _keep(warehouse, dataset, table.filter(pa.array(kept)), True)
    return int((~kept).sum())


def current(warehouse: str, dataset: str) -> str | None:
    """The file of the query set that was drawn for a dataset, if one was."""
    pointer = places.CURRENT_QUERIES.url(warehouse, dataset=dataset)
    if not filesystem.exists(pointer):
        return None
    digest = json.loads(filesystem.read_bytes(pointer))["digest"]
    return places.QUERIES.url(warehouse, dataset=dataset, digest=digest)


def kept_neighbours(warehouse: str, digest: str) -> tuple[Array, Array] | None:
    """(ids, squared distances) (q, k) kept under the digest of what they depend on, if they were computed."""
    url = places.GROUND_TRUTH.url(warehouse, digest=digest)
    if not filesystem.touch(url):
        return None
    table = _read(url)
    shape = (len(table), table.schema.field("neighbours").type.list_size)
    ids, distances = (table[name].combine_chunks().flatten().to_numpy() for name in ("neighbours", "distances"))
    return ids.reshape(shape), distances.reshape(shape)


def keep_neighbours(warehouse: str, digest: str, ids: Array, distances: Array) -> None:
    """Keep exact neighbours (q, k) under the digest of what they depend on."""
    import pyarrow as pa

    lists = [pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(a)), ids.shape[1]) for a in (ids, distances)]
    filesystem.write_bytes(
        places.GROUND_TRUTH.url(warehouse, digest=digest), _write(pa.table(lists, ["neighbours", "distances"]))
    )


def _keep(warehouse: str, dataset: str, table: Any, replace: bool) -> None:
    content = _write(table)
    digest = hashlib.sha256(content).hexdigest()
    filesystem.write_bytes(places.QUERIES.url(warehouse, dataset=dataset, digest=digest), content)
    pointer, now = places.CURRENT_QUERIES.url(warehouse, dataset=dataset), json.dumps({"digest": digest}).encode()
    if replace:
        filesystem.write_bytes(pointer, now)
    else:
        filesystem.create_exclusive(pointer, now)


def _read(url: str) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(io.BytesIO(filesystem.read_bytes(url)))


def _write(table: Any) -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()
