"""CIFAR's binary version: rows of one or two bytes of labels, then 32 x 32 pixels of red, of green and of blue.

Source: A. Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html. The pickled version is not read: a pickle is code.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from . import BLOCK_BYTES, FeatureRows, opened, read_exactly

SIDE, CHANNELS = 32, 3
PIXELS = CHANNELS * SIDE**2


def read_cifar(path: str | Path, member: str | None = None, classes: tuple[int, ...] = (10,)) -> Iterator[FeatureRows]:
    """Blocks of rows: ids from 0 on, (n, 3072) uint8 pixels as (h, w, c), and the last label.

    classes: how many each byte of labels tells apart; (20, 100) of CIFAR-100, coarse and fine. path is plain, .gz, or a
    .tar.gz of which a member is read. Raises ValueError for an empty or truncated file, and for labels of no class.
    """
    where = f"{path}, {member}" if member else f"{path}"
    width = len(classes) + PIXELS
    row = 0
    with opened(Path(path), member) as stream:
        while data := read_exactly(stream, BLOCK_BYTES // width * width):
            if len(data) % width:
                row += len(data) // width
                raise ValueError(f"{where}: expected rows of {width} bytes, found the end of the file in row {row}")
            block = np.frombuffer(data, np.uint8).reshape(-1, width)
            labels = block[:, : len(classes)]
            if len(wrong := np.flatnonzero((labels >= classes).any(axis=1))):
                found, at = labels[wrong[0]].tolist(), row + wrong[0]
                raise ValueError(f"{where}: expected labels below {classes}, found {found} in row {at}")
            planes = block[:, len(classes) :].reshape(-1, CHANNELS, SIDE, SIDE)
            pixels = planes.transpose(0, 2, 3, 1).reshape(-1, PIXELS)
            yield FeatureRows(np.arange(row, row + len(block)), pixels, labels[:, -1:].tolist())
            row += len(block)
    if not row:
        raise ValueError(f"{where}: expected rows of {width} bytes, found an empty file")
