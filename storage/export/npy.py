"""Export codes as .npy arrays."""

from contextlib import ExitStack
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import DTypeLike

from hashing.bits import n_bytes
from hashing.quantizers.estimator import corrective_type

from ..files import filesystem
from .keys import write_keys
from .optional import ExportRefused
from .rows import VersionRows

MOST_CLASSES = 10_000  # multi-hot labels of more would take far more than the codes


def write(rows: VersionRows, place: Path) -> None:
    """Write codes.npy (n, B) uint8, ids.npy (n,) int64 and, for a table with labels, multi-hot labels.npy (n, c) uint8.

    A table with correctives also has them, in correctives.npy (n, m) float16, or float32 with a model of hashkiln 0.2.
    Rows are in the order of the shards. One batch is in memory at a time. Raises ExportRefused for more than
    MOST_CLASSES labels.
    """
    n, n_classes, width = len(rows), len(rows.vocabulary), n_bytes(rows.n_bits)
    if n_classes > MOST_CLASSES:
        raise ExportRefused(
            f"labels.npy would take {n * n_classes / 1e9:,.1f} GB, a byte for each of {n:,} rows and {n_classes:,} "
            "labels: export to duckdb, lance or pgvector, which hold lists of labels"
        )
    names = rows.shards[0].correctives
    with ExitStack() as stack:

        def create(name: str, dtype: DTypeLike, *shape: int) -> IO[bytes]:
            file = stack.enter_context(filesystem.create(str(place / name)))
            descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
            header = {"descr": descr, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            return file

        codes, ids = create("codes.npy", np.uint8, n, width), create("ids.npy", np.int64, n)
        correctives = create("correctives.npy", corrective_type(names), n, len(names)) if names else None
        labels = create("labels.npy", np.uint8, n, n_classes) if n_classes else None
        for shard in rows.shards:
            for batch in shard:
                codes.write(batch.x[:, :width].tobytes())
                if correctives:
                    correctives.write(batch.x[:, width:].tobytes())
                ids.write(batch.ids.tobytes())
                if labels:
                    y = np.zeros((len(batch.ids), n_classes), np.uint8) if batch.y is None else batch.y
                    labels.write(y.tobytes())
    write_keys(rows.shards, place, rows.keys)
