"""IDX, the format of MNIST: a magic number with type and rank, the sizes, then big-endian values.

Source: Y. LeCun, C. Cortes, C. Burges, http://yann.lecun.com/exdb/mnist.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hashing.mapreduce import Array

from . import BLOCK_BYTES, open_stream, read_exactly

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: str | Path) -> Iterator[Array]:
    """Yield blocks (n, ...) of consecutive items in native byte order, such as images (n, 28, 28) or labels (n,).

    The file is plain or .gz. Raises ValueError for an invalid magic number or size, and if the file holds more or fewer
    bytes than its sizes require.
    """
    path = Path(path)
    with open_stream(path) as stream:
        magic = read_exactly(stream, 4)
        if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in DTYPES or not magic[3]:
            raise ValueError(
                f"{path}: expected an IDX magic number (00 00, type, rank) at byte 0, found {magic.hex(' ')}"
            )
        dtype = np.dtype(DTYPES[magic[2]])
        sizes = read_exactly(stream, 4 * magic[3])
        if len(sizes) < 4 * magic[3]:
            raise ValueError(f"{path}: expected {magic[3]} sizes at byte 4, found {len(sizes)} bytes")
        n, *shape = np.frombuffer(sizes, ">u4").tolist()
        if not 1 <= math.prod(shape) <= BLOCK_BYTES or not n:
            raise ValueError(
                f"{path}: expected at least one item of 1..{BLOCK_BYTES} values, found sizes {(n, *shape)}"
            )
        width = math.prod(shape) * dtype.itemsize
        step = max(1, BLOCK_BYTES // width)
        for row in range(0, n, step):
            m = min(step, n - row)
            data = read_exactly(stream, m * width)
            if len(data) < m * width:
                end = row + len(data) // width
                raise ValueError(
                    f"{path}: expected {n} items of {width} bytes, found the end of the file in item {end}"
                )
            yield np.frombuffer(data, dtype).astype(dtype.newbyteorder("=")).reshape(m, *shape)
        if stream.read(1):
            raise ValueError(f"{path}: expected the end of the file after {n} items of {width} bytes, found more bytes")
