"""Export codes as a Faiss binary index: flat, IVF or HNSW."""

from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from ..tables.parts import read_ids
from .keys import write_keys
from .optional import optional_package
from .rows import VersionRows, code_bytes

TRAINING_ROWS = 64  # per list of an IVF index; Faiss recommends 39 to 256
PROBES = 32  # lists that a search in an IVF index reads
LINKS = 32  # links per row in the graph of an HNSW index


def write_flat(rows: VersionRows, place: Path) -> None:
    """Write an IndexBinaryFlat, inside an IndexBinaryIDMap2 unless the ids are 0, 1, … n - 1: an exact scan."""
    faiss = _faiss()
    _fill(_with_ids(faiss.IndexBinaryFlat(rows.padded_bits), rows), rows, place)


def write_hnsw(rows: VersionRows, place: Path) -> None:
    """Write an IndexBinaryHNSW, inside an IndexBinaryIDMap2 unless the ids are 0, 1, … n - 1."""
    faiss = _faiss()
    _fill(_with_ids(faiss.IndexBinaryHNSW(rows.padded_bits, LINKS), rows), rows, place)


def write_ivf(rows: VersionRows, place: Path) -> None:
    """Write an IndexBinaryIVF of about 4 sqrt(n) lists, trained on random rows."""
    faiss = _faiss()
    lists = max(1, min(4 * isqrt(len(rows)), len(rows) // TRAINING_ROWS))
    quantizer = faiss.IndexBinaryFlat(rows.padded_bits)
    index = faiss.IndexBinaryIVF(quantizer, rows.padded_bits, lists)
    index.nprobe = min(PROBES, lists)
    index.train(_sample(rows, lists * TRAINING_ROWS))
    _fill(index, rows, place)


def _faiss() -> Any:
    return optional_package("faiss", "faiss-cpu")


def _fill(index: Any, rows: VersionRows, place: Path) -> None:
    """Add all rows to an index, and write it to index.faiss. Faiss holds the whole index in memory."""
    faiss = _faiss()
    takes_ids = isinstance(index, faiss.IndexBinaryIDMap2 | faiss.IndexBinaryIVF)
    for batch in rows:
        codes = code_bytes(batch, rows.n_bits)
        if takes_ids:
            index.add_with_ids(codes, batch["id"].to_numpy())
        else:
            index.add(codes)
    faiss.write_index_binary(index, str(place / "index.faiss"))
    write_keys(rows.shards, place, rows.keys)


def _with_ids(index: Any, rows: VersionRows) -> Any:
    """Return the index if the ids are 0, 1, … n - 1 in this order, else wrapped in a map of ids; read part by part."""
    start = 0
    for shard in rows.shards:
        ids = read_ids(shard.part.url)
        if not np.array_equal(ids, np.arange(start, start + len(ids))):
            return _faiss().IndexBinaryIDMap2(index)
        start += len(ids)
    return index


def _sample(rows: VersionRows, size: int) -> Array:
    """Return the codes of `size` random rows, or of all if there are fewer; one zero code if there are none."""
    chosen = np.sort(np.random.default_rng(0).choice(len(rows), min(size, len(rows)), replace=False))
    codes, start = [np.zeros((0 if len(rows) else 1, rows.padded_bits // 8), np.uint8)], 0
    for batch in rows:
        first, last = np.searchsorted(chosen, (start, start + len(batch)))
        codes.append(code_bytes(batch, rows.n_bits)[chosen[first:last] - start])
        start += len(batch)
    return np.concatenate(codes)
