"""Codes in the forms of other tools: .npy arrays, or a Faiss index. A folder appears whole or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np

from hashing.bits import n_bytes

from . import filesystem
from .codes import CodeShard, read_ids


def to_npy(shards: Sequence[CodeShard], folder: str, about: dict[str, Any]) -> int:
    """Write codes.npy (n, B) uint8, ids.npy (n,) int64, of labelled rows also labels.npy (n, c) uint8, multi-hot.

    Rows come in the order of the shards, one batch in memory at a time. `about` becomes export.json. The rows written.
    Raises FileExistsError where the folder exists and is not empty.
    """
    rows, n_bits, n_classes = sum(shard.part.rows for shard in shards), shards[0].n_bits, shards[0].n_classes
    with _whole(folder, about) as place, ExitStack() as stack:

        def create(name: str, dtype: type, *shape: int) -> IO[bytes]:
            file = stack.enter_context(filesystem.create(str(place / name)))
            descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            return file

        codes, ids = create("codes.npy", np.uint8, rows, n_bytes(n_bits)), create("ids.npy", np.int64, rows)
        labels = create("labels.npy", np.uint8, rows, n_classes) if n_classes else None
        for shard in shards:
            for batch in shard:
                codes.write(batch.x.tobytes())
                ids.write(batch.ids.tobytes())
                if labels:
                    y = np.zeros((len(batch.ids), n_classes), np.uint8) if batch.y is None else batch.y
                    labels.write(y.tobytes())
    return rows


def to_faiss(shards: Sequence[CodeShard], folder: str, about: dict[str, Any]) -> int:
    """Write index.faiss: an IndexBinaryFlat, inside an IndexBinaryIDMap2 unless the ids are 0, 1, … n - 1.

    Faiss holds the whole index in memory. `about` becomes export.json. The rows written. Raises ValueError for codes
    that fill no whole bytes, RuntimeError where Faiss is not installed, FileExistsError as to_npy does.
    """
    n_bits = shards[0].n_bits
    if n_bits % 8:
        raise ValueError(f"expected codes of whole bytes for Faiss, found {n_bits} bits: export them as npy")
    if not find_spec("faiss"):
        raise RuntimeError("expected the package faiss, to write a Faiss index, found none: pip install faiss-cpu")
    faiss = import_module("faiss")  # by name: nothing else here needs it
    index = faiss.IndexBinaryFlat(n_bits)
    ids = np.concatenate([read_ids(shard.part.url) for shard in shards])
    mapped = None if np.array_equal(ids, np.arange(len(ids))) else faiss.IndexBinaryIDMap2(index)
    with _whole(folder, about) as place:
        for shard in shards:
            for batch in shard:
                if mapped:
                    mapped.add_with_ids(batch.x, batch.ids)
                else:
                    index.add(batch.x)
        faiss.write_index_binary(mapped or index, str(place / "index.faiss"))
    return len(ids)


@contextmanager
def _whole(folder: str, about: dict[str, Any]) -> Iterator[Path]:
    """A hidden folder beside the wanted one. When the block ends it gets export.json and its name; else it vanishes."""
    if "://" in folder:
        raise ValueError(f"expected a folder of this machine to export to, found {folder}")
    target = Path(folder).expanduser().absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"expected a new or an empty folder to export to, found {target} with something in it")
    attempt = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    attempt.mkdir(parents=True)
    try:
        yield attempt
        filesystem.write(str(attempt / "export.json"), json.dumps(about, indent=2).encode())
        attempt.replace(target)
    finally:
        shutil.rmtree(attempt, ignore_errors=True)
