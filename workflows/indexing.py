"""Multi-indexes of the parts of a version, stored beside them."""

from collections.abc import Sequence

import numpy as np

from hashing.bits import n_bytes
from hashing.mapreduce import Batch, Executor
from hashing.neighbours.multi_index import IndexedCodes, MultiIndex, index_codes, layout
from storage.tables import part_index
from storage.tables.parts import CodeShard

from .context import Context


def store_missing(context: Context, version: str) -> None:
    """Store the index of each part of a version that has none."""
    table = context.open_table()
    shards, present = table.shards(table.version(version).snapshot_id), part_index.indexed_parts(table.folder)
    _store([shard for shard in shards if part_index.index_url(shard.part.url) not in present], context.executor)


def open_index(shards: Sequence[CodeShard], executor: Executor, every: Batch | None) -> MultiIndex:
    """Return the stored index of some parts, mapped into memory. First store what is missing or damaged.

    `every` has all rows, if they are in memory; see MultiIndex.
    """
    width, shards = n_bytes(shards[0].n_bits), [shard for shard in shards if shard.part.rows]
    found = [_read(shard) for shard in shards]
    _store([shard for shard, index in zip(shards, found, strict=True) if not index], executor)
    parts = [index or _read(shard) for shard, index in zip(shards, found, strict=True)]
    if None in parts:
        raise OSError(f"{part_index.index_url(shards[parts.index(None)].part.url)} is damaged after it was written")
    return MultiIndex([part for part in parts if part], width, every)


def _store(shards: Sequence[CodeShard], executor: Executor) -> None:
    for _ in executor.map(_store_one, [shard for shard in shards if shard.part.rows], "index"):
        pass


def _store_one(shard: CodeShard) -> None:
    batches = list(shard)
    ids, codes = (np.concatenate([batch[i] for batch in batches]) for i in (0, 1))
    order = np.argsort(ids, kind="stable")
    part_index.write_part_index(shard.part.url, index_codes(ids[order], codes[order]))


def _read(shard: CodeShard) -> IndexedCodes | None:
    arrays = part_index.read_index(shard.part.url, layout(shard.part.rows, n_bytes(shard.n_bits)))
    return IndexedCodes(*arrays) if arrays else None
