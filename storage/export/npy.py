"""Export codes as .npy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, Any

import numpy as np

from hashing.bits import n_bytes

from ..files import filesystem
from ..tables.parts import CodeShard
from .folder import atomic_folder


def to_npy(shards: Sequence[CodeShard], folder: str, about: dict[str, Any]) -> int:
    """Write .npy files to an `atomic_folder`, and return the number of rows n.

    The files are codes.npy (n, B) uint8, ids.npy (n,) int64 and, if the table has labels, labels.npy (n, c) uint8,
    multi-hot. Rows have the order of the shards. One batch is in memory at a time.
    """
    rows, n_bits, n_classes = sum(shard.part.rows for shard in shards), shards[0].n_bits, shards[0].n_classes
    with atomic_folder(folder, about) as place, ExitStack() as stack:

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
