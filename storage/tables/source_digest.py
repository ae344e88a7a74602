"""Digests of source rows, which parts record to detect changes of the source. They are not identities."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import mmh3
import numpy as np

from hashing.mapreduce import Batch

LANES = 64


class LaneDigest:
    """A digest as fast as memory is read. It also depends on how the content is divided into pieces.

    The words of a piece, padded with zeros, are added to 64 lanes in turn (see `digest_kernels.absorb`). The digest is
    the SHA-256 of the lanes and of the lengths of the pieces.
    """

    def __init__(self) -> None:
        self._lanes = np.arange(LANES, dtype=np.uint64)
        self._lengths = hashlib.sha256()

    def update(self, piece: Any) -> None:
        from .digest_kernels import absorb

        content = np.frombuffer(piece, np.uint8)
        whole = len(content) // (8 * LANES) * (8 * LANES)
        rest = np.zeros(8 * LANES, np.uint8)
        rest[: len(content) - whole] = content[whole:]
        for words in (content[:whole], rest):
            aligned = np.require(words.view(np.uint64), requirements="A")[:]
            aligned.flags.writeable = False  # Numba compiles another signature for arrays that are not
            absorb(aligned, self._lanes)
        self._lengths.update(len(content).to_bytes(8, "little"))

    def digest(self) -> bytes:
        lengths = self._lengths.copy()
        lengths.update(self._lanes.astype("<u8").tobytes())
        return lengths.digest()


# By format of the part. The earlier digests, SHA-256 and MurmurHash3, took longer than most of the encoding.
SOURCE_DIGESTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "1": ("source_sha256", hashlib.sha256),
    "2": ("source_murmur3", mmh3.mmh3_x64_128),
    "3": ("source_lanes", LaneDigest),
}
NEWEST = max(SOURCE_DIGESTS)


def update_digest(content: Any, batch: Batch) -> None:
    """Update a digest with the ids and data of a source shard's rows."""
    content.update(np.ascontiguousarray(batch.ids).data)
    content.update(np.ascontiguousarray(batch.x).data)
