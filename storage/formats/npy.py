"""The .npy format of NumPy: one array per file, mapped into memory and never unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hashing.mapreduce import Array


def read_npy(path: str | Path) -> Array:
    """Map the array of a file into memory. Raises ValueError for other files, and for arrays of objects."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: expected a .npy file of numbers, found something else: {error}") from None
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{path}: expected a .npy file, found an archive of several arrays")
    return array
