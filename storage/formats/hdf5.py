"""HDF5 files of ann-benchmarks: the arrays train, test, and the neighbors of each test row in train.

Source: M. Aumueller, E. Bernhardsson, A. Faithfull, ANN-Benchmarks, https://ann-benchmarks.com.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hashing.mapreduce import Array

from . import BLOCK_BYTES, Metric

METRICS: dict[str, Metric] = {
    "euclidean": "euclidean", "l2": "euclidean", "angular": "cosine", "cosine": "cosine", "ip": "ip", "dot": "ip",
    "hamming": "hamming",
}  # fmt: skip
ORDERED = 8  # queries whose neighbors show the metric of a file that does not name it
DECREASING = 0.2  # share of steps to a nearer neighbor that rounding may explain; in random order it is a half
DTYPES = {"train": "float32", "test": "float32", "neighbors": "int32", "distances": "float32"}


def read_hdf5(path: str | Path, key: str) -> Iterator[Array]:
    """Yield blocks (n, d) of train, test or distances (float32), or of neighbors (int32: positions in train).

    Raises ValueError if the file is not HDF5 or lacks the array, or if that is not a matrix of numbers.
    """
    import h5py

    if key not in DTYPES:
        raise ValueError(f"expected one of {', '.join(DTYPES)}, found {key}")
    with _open(path) as file:
        array = file.get(key)
        if not isinstance(array, h5py.Dataset):
            raise ValueError(f"{path}: expected an array {key}, found {', '.join(file) or 'none'}")
        if not _is_matrix(array):
            raise ValueError(f"{path}: expected {key} to be a matrix of numbers, found {array.shape} {array.dtype}")
        step = max(1, BLOCK_BYTES // (4 * array.shape[1]))
        for row in range(0, len(array), step):
            try:
                yield array[row : row + step].astype(DTYPES[key], copy=False)
            except OSError as error:
                raise ValueError(f"{path}: expected to read {key} from row {row} on, found {error}") from None


def stored_metric(path: str | Path) -> Metric | None:
    """Return the metric that the file's attribute `distance` names; None if it has none.

    Raises ValueError for a distance that is not one of METRICS.
    """
    with _open(path) as file:
        value = file.attrs.get("distance")
    if value is None:
        return None
    first = value.flat[0] if isinstance(value, np.ndarray) and value.size == 1 else value
    name = first.decode() if isinstance(first, bytes) else str(first)
    if name.lower() not in METRICS:
        raise ValueError(f"{path}: expected a distance of {', '.join(METRICS)}, found {name}")
    return METRICS[name.lower()]


def metric_of_neighbours(path: str | Path) -> Metric | None:
    """Return the metric that orders the neighbors of a file's first queries best: a guess.

    None if none orders them, or Euclidean distance does as well as another.
    """
    with _open(path) as file:
        train, test, neighbours = arrays = [file.get(key) for key in ("train", "test", "neighbors")]
        if not all(map(_is_matrix, arrays)) or neighbours.dtype.kind not in "iu" or neighbours.shape[1] < 2:
            return None
        decreasing: dict[Metric, list[Array]] = {"euclidean": [], "cosine": [], "ip": []}
        for query, ids in zip(test[:ORDERED].astype(np.float64), neighbours[:ORDERED], strict=False):
            rows = np.unique(ids)
            if train.shape[1] != len(query) or not 0 <= rows[0] <= rows[-1] < len(train):
                return None
            x = train[rows].astype(np.float64)[np.searchsorted(rows, ids)]
            with np.errstate(all="ignore"):  # rows that are not finite, or zero
                norms, products = (x**2).sum(axis=1), x @ query
                scores = {"euclidean": norms - 2 * products, "cosine": -products / np.sqrt(norms), "ip": -products}
                for metric, steps in decreasing.items():
                    steps.append(~(np.diff(scores[metric]) >= 0))
    shares = {metric: round(float(np.mean(steps)), 2) for metric, steps in decreasing.items()}
    best = min(shares, key=lambda metric: shares[metric])  # of equal ones, the first
    return best if best != "euclidean" and shares[best] < DECREASING else None


def _is_matrix(array: Any) -> bool:
    """Return whether an object of a file is a matrix of numbers."""
    import h5py

    return isinstance(array, h5py.Dataset) and array.ndim == 2 and array.dtype.kind in "bfiu" and bool(array.size)


def _open(path: str | Path) -> Any:
    """Open a file. Raises ValueError if it is not HDF5."""
    import h5py

    try:
        return h5py.File(path, "r")
    except FileNotFoundError:  # whose words are those of HDF5
        raise FileNotFoundError(f"no such file: {path}") from None
    except OSError as error:
        raise ValueError(f"{path}: expected an HDF5 file, found something else: {error}") from None
