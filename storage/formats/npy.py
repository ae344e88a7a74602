"""NumPy's .npy: one array a file, mapped into memory and never unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hashing.mapreduce import Array


def read_npy(path: str | Path) -> Array:
    """The array of a file, read as it is used. Raises ValueError for anything else, also for arrays of objects."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: expected a .npy file of numbers, found something else: {error}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: expected a .npy file, found an archive of several arrays")
    return array
