"""Digests of source rows, which parts record to detect changes of the source. They are not identities."""

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import mmh3
import numpy as np

from hashing.mapreduce import Array, Batch

LANES = 64


class LaneDigest:
    """A digest as fast as memory is read. It also depends on how the content is divided into pieces.

    The words of a piece, padded with zeros, are added to 64 lanes in turn (see `digest_kernels.absorb`). The digest is
    the SHA-256 of the lanes and of the lengths of the pieces.
    """

    def __init__(self) -> None:
        self._lanes = np.arange(LANES, dtype=np.uint64)
        self._lengths = hashlib.sha256()
        self._length, self._rest = 0, np.empty(0, np.uint8)  # of the piece so far: its bytes, and those not yet added

    def update(self, part: Any, more: bool = False) -> None:
        """Add a piece, or with `more` a part of one that the next call continues."""
        content = np.frombuffer(part, np.uint8)
        self._length += len(content)
        if len(self._rest):
            content = np.concatenate([self._rest, content])
        whole = len(content) // (8 * LANES) * (8 * LANES)
        self._absorb(content[:whole])
        self._rest = content[whole:].copy()
        if more:
            return
        self._absorb(np.pad(self._rest, (0, 8 * LANES - len(self._rest))))
        self._lengths.update(self._length.to_bytes(8, "little"))
        self._length, self._rest = 0, self._rest[:0]

    def _absorb(self, content: Array) -> None:
        from .digest_kernels import absorb

        aligned = np.require(content.view(np.uint64), requirements="A")[:]
        aligned.flags.writeable = False  # Numba compiles another signature for arrays that are not
        absorb(aligned, self._lanes)

    def digest(self) -> bytes:
        lengths = self._lengths.copy()
        lengths.update(self._lanes.astype("<u8").tobytes())
        return lengths.digest()


class BytesDigest:
    """A digest of bytes, however they are divided."""

    def __init__(self, new: Callable[[], Any]) -> None:
        self._content = new()

    def update(self, part: Any, more: bool = False) -> None:
        self._content.update(part)

    def digest(self) -> bytes:
        return bytes(self._content.digest())


# By format of the part. The earlier digests, SHA-256 and MurmurHash3, took longer than most of the encoding.
SOURCE_DIGESTS: dict[str, tuple[str, Callable[[], LaneDigest | BytesDigest]]] = {
    "1": ("source_sha256", partial(BytesDigest, hashlib.sha256)),
    "2": ("source_murmur3", partial(BytesDigest, mmh3.mmh3_x64_128)),
    "3": ("source_lanes", LaneDigest),
}
NEWEST = max(SOURCE_DIGESTS)


def update_digest(content: Any, batch: Batch) -> None:
    """Update a digest with the ids and data of a source shard's rows."""
    content.update(np.ascontiguousarray(batch.ids).data)
    content.update(np.ascontiguousarray(batch.x).data)
