"""The .npy format of NumPy: one array per file, mapped into memory and never unpickled."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hashing.mapreduce import Array

from . import BLOCK_BYTES


def read_npy(path: str | Path) -> Array:
    """Map the array of a file into memory. Raises ValueError for other files, and for arrays of objects."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        why = "another file" if "allow_pickle" in str(error) else str(error)  # NumPy takes any other file for a pickle
        raise ValueError(f"{path}: expected a .npy file of numbers, found {why}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: expected a .npy file, found an archive of several arrays")
    return array


def read_npy_vectors(path: str | Path) -> Iterator[Array]:
    """Yield blocks (n, d) of the vectors in a file. Raises ValueError unless it is a matrix of numbers, with rows."""
    array = read_npy(path)
    if array.ndim != 2 or array.dtype.kind not in "biuf" or not array.size:
        raise ValueError(f"{path}: expected vectors (n, d) of numbers, found {array.shape} {array.dtype}")
    whole, size = array.offset + array.nbytes, Path(path).stat().st_size  # type: ignore[attr-defined]  # np.memmap
    if size != whole:
        raise ValueError(f"{path}: expected {len(array)} rows in {whole} bytes, found {size} bytes")
    step = max(1, BLOCK_BYTES // (array.itemsize * array.shape[1]))
    kept = array.dtype.newbyteorder("=") if array.itemsize <= 8 else np.dtype(np.float64)
    for row in range(0, len(array), step):
        yield np.array(array[row : row + step], kept)
