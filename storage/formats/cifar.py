"""The binary version of CIFAR: rows of one or two label bytes, then 32 x 32 bytes each of red, green and blue.

Source: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html. The pickled version is not supported, because
unpickling can run code.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import BLOCK_BYTES, FeatureRows, open_stream, read_exactly

SIDE, CHANNELS = 32, 3
PIXELS = CHANNELS * SIDE**2


def read_cifar(path: str | Path, member: str | None = None, classes: tuple[int, ...] = (10,)) -> Iterator[FeatureRows]:
    """Yield blocks of rows: ids from 0 on, pixels (n, 3072) uint8 in the order (h, w, c), and the last label.

    Parameters
    ----------
    path
        A plain file, a .gz, or, with a member, a .tar.gz.
    classes
        Number of classes for each label byte of a row: (20, 100), coarse and fine, for CIFAR-100.

    Raises
    ------
    ValueError
        For an empty or truncated file, and for labels outside of their number of classes.
    """
    where = f"{path}, {member}" if member else f"{path}"
    width = len(classes) + PIXELS
    row = 0
    with open_stream(Path(path), member) as stream:
        while data := read_exactly(stream, BLOCK_BYTES // width * width):
            if len(data) % width:
                row += len(data) // width
                raise ValueError(f"{where}: expected rows of {width} bytes, found the end of the file in row {row}")
            block = np.frombuffer(data, np.uint8).reshape(-1, width)
            labels = block[:, : len(classes)]
            if len(wrong := np.flatnonzero((labels >= classes).any(axis=1))):
                label = labels[wrong[0]].tolist()
                raise ValueError(f"{where}: expected labels below {classes}, found {label} in row {row + wrong[0]}")
            planes = block[:, len(classes) :].reshape(-1, CHANNELS, SIDE, SIDE)
            pixels = planes.transpose(0, 2, 3, 1).reshape(-1, PIXELS)
            yield FeatureRows(np.arange(row, row + len(block)), pixels, labels[:, -1:].tolist())
            row += len(block)
    if not row:
        raise ValueError(f"{where}: expected rows of {width} bytes, found an empty file")
