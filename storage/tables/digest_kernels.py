"""The inner loop of storage.tables.source_digest, compiled by Numba on first use and cached on disk."""

import numpy as np
from numba import njit

PRIME = np.uint64(0x9E3779B185EBCA87)
LEFT, RIGHT = np.uint64(29), np.uint64(35)  # a rotation: otherwise high bits would not reach the low ones


@njit(nogil=True, cache=True)
def absorb(words, lanes):
    """Add words (n * m,) uint64 to m lanes. Each step is a bijection of the lane, and of the word."""
    for start in range(0, len(words), len(lanes)):
        row = words[start : start + len(lanes)]
        for i in range(len(lanes)):
            mixed = lanes[i] ^ row[i]
            lanes[i] = (mixed << LEFT | mixed >> RIGHT) * PRIME
