"""The .fbin, .u8bin and .i8bin files of the BigANN benchmarks: rows and dimension as uint32, then the values.

Source: https://big-ann-benchmarks.com.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from . import BLOCK_BYTES

DTYPES: dict[str, np.dtype[Any]] = {".fbin": np.dtype("<f4"), ".u8bin": np.dtype("u1"), ".i8bin": np.dtype("i1")}
HEADER_BYTES = 8


def read_bin(path: str | Path) -> Iterator[Array]:
    """Yield blocks (n, d) of rows. Raises ValueError if the size of the file does not match its header."""
    path = Path(path)
    dtype = DTYPES[path.suffix.lower()]
    header = np.fromfile(path, "<u4", 2)
    n, d = (int(value) for value in header) if len(header) == 2 else (0, 0)
    size, expected = path.stat().st_size, HEADER_BYTES + n * d * dtype.itemsize
    if not n or not d or size != expected:
        raise ValueError(f"{path}: expected {n} rows of {d} values, {expected} bytes, found {size} bytes")
    rows = np.memmap(path, dtype, "r", HEADER_BYTES, (n, d))
    step = max(1, BLOCK_BYTES // (d * dtype.itemsize))
    for row in range(0, n, step):
        yield np.array(rows[row : row + step])
