"""Export codes as a Faiss binary index."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from ..tables.parts import CodeShard, read_ids
from .folder import atomic_folder


def to_faiss(shards: Sequence[CodeShard], folder: str, about: dict[str, Any]) -> int:
    """Write index.faiss to an `atomic_folder`, and return the number of rows.

    The index is an IndexBinaryFlat, inside an IndexBinaryIDMap2 unless the ids are 0, 1, … n - 1. Faiss holds all of it
    in memory.

    Raises
    ------
    ValueError
        If the number of bits is not a multiple of 8.
    RuntimeError
        If Faiss is not installed.
    """
    n_bits = shards[0].n_bits
    if n_bits % 8:
        raise ValueError(f"Faiss needs a multiple of 8 bits, found {n_bits}: export as npy instead")
    if not find_spec("faiss"):
        raise RuntimeError("exporting to Faiss needs the package faiss: pip install faiss-cpu")
    faiss = import_module("faiss")  # by name, as it is an optional dependency
    index = faiss.IndexBinaryFlat(n_bits)
    mapped = None if _ids_are_positions(shards) else faiss.IndexBinaryIDMap2(index)
    with atomic_folder(folder, about) as place:
        for shard in shards:
            for batch in shard:
                if mapped:
                    mapped.add_with_ids(batch.x, batch.ids)
                else:
                    index.add(batch.x)
        faiss.write_index_binary(mapped or index, str(place / "index.faiss"))
    return sum(shard.part.rows for shard in shards)


def _ids_are_positions(shards: Sequence[CodeShard]) -> bool:
    """Return whether the ids are 0, 1, … n - 1 in this order, by one part at a time."""
    start = 0
    for shard in shards:
        ids = read_ids(shard.part.url)
        if not np.array_equal(ids, np.arange(start, start + len(ids))):
            return False
        start += len(ids)
    return True
