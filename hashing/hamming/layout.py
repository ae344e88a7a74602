"""Memory layout of labels and codes for the Hamming functions and their compiled kernels."""

from collections.abc import Iterator

import numpy as np

from ..mapreduce import Array

BLOCK_BYTES = 1 << 20  # bytes of codes that all queries visit before the next block: half an L2 cache
CACHE_LINE = 64  # bytes; a vector within one line loads a sixth faster than a vector across two
ALIGNED_QUERIES = 64  # from this number of queries on, copying one-word codes to aligned memory pays off


def pack_labels(y: Array) -> Array:
    """Return multi-hot labels (n, c) packed into words, (n, w) uint64 with w = ceil(c / 64).

    Label j is bit j mod 64 of word j div 64. Raises ValueError unless y has two axes.

    >>> pack_labels(np.array([[1, 0, 1], [0, 1, 0]]))
    array([[5],
           [2]], dtype=uint64)
    """
    if y.ndim != 2:
        raise ValueError(f"expected multi-hot labels (n, c), found shape {y.shape}")
    words = np.zeros((len(y), -(-y.shape[1] // 64) * 8), np.uint8)
    packed = np.packbits(y.astype(bool), axis=1, bitorder="little")
    words[:, : packed.shape[1]] = packed
    return words.view(np.uint64)


def blocks(database: Array, n_queries: int, extra: int = 0) -> Iterator[tuple[slice, Array, int]]:
    """Yield the codes of a database word by word, in blocks that fit the cache.

    Parameters
    ----------
    database
        (n, B) uint8.
    n_queries
        Number of queries that visit each block.
    extra
        Bytes that are read with each row, besides its code.

    Yields
    ------
    rows
        Slice of the database.
    planes
        (W, rows * size) uint8; plane w holds word w of every row. The next block overwrites it.
    size
        Bytes of a word: 2, 4 or 8.
    """
    step = max(4096, BLOCK_BYTES // (database.shape[1] + extra)) // CACHE_LINE * CACHE_LINE
    memory = np.empty(0, np.uint8)
    for start in range(0, len(database), step):
        rows = slice(start, min(start + step, len(database)))
        codes = pad_to_words(database[rows])
        size = min(codes.shape[1], 8)
        if size == codes.shape[1] and n_queries < ALIGNED_QUERIES:
            yield rows, codes.reshape(1, -1), size
            continue
        if len(memory) < codes.size:
            memory = np.empty(codes.size + CACHE_LINE, np.uint8)
            memory = memory[-memory.ctypes.data % CACHE_LINE :]
        planes, word = memory[: codes.size].reshape(-1, len(codes) * size), f"u{size}"
        planes.view(word)[:] = codes.view(word).T
        yield rows, read_only(planes), size


def pad_to_words(codes: Array) -> Array:
    """Return codes padded with zero bytes to a width of 2, 4 or a multiple of 8."""
    width = codes.shape[1]
    padded = next((size for size in (2, 4) if width <= size), -(-width // 8) * 8)
    return read_only(np.pad(codes, ((0, 0), (0, padded - width))) if padded > width else codes)


def read_only(array: Array) -> Array:
    """Return a contiguous, read-only view, or a copy if the array is not contiguous.

    Numba compiles a signature for each combination of memory layout and writability; this way kernels need only one.
    """
    array = np.ascontiguousarray(array)[:]
    array.flags.writeable = False
    return array
