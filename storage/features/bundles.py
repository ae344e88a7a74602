"""Bundles of tiny source files: one task encodes each bundle into one part, with one entry in the table."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ..files.filesystem import FileVersion

TINY = 2**20  # bytes; files of this size or more are not bundled
BUNDLE_BYTES = 2**25  # maximum size of a bundle
REACH = 8  # a bundle has more than REACH files, and 2 * REACH on average; smaller groups are not bundled


def group_files(files: Mapping[str, FileVersion]) -> list[list[str]]:
    """Return the names of files in groups, sorted. A group is a single file, or the files of a bundle.

    A bundle starts at a name whose hash is the smallest within REACH names on either side. An added, removed or changed
    file therefore affects only its own bundle and the adjacent ones.

    >>> group_files({name: FileVersion(name, size, "v1") for name, size in (("a", 2**20), ("b", 10))})
    [['a'], ['b']]
    """
    groups = [[name] for name in files if files[name].size >= TINY]
    tiny = sorted(name for name in files if files[name].size < TINY)
    starts = [0, *_local_minima(tiny), len(tiny)]
    for start, stop in pairwise(starts):
        for group in _split_by_size(tiny[start:stop], files):
            groups += [group] if len(group) > REACH else [[name] for name in group]
    return sorted(groups)


def group_version(versions: Mapping[str, str]) -> str:
    """Return the version of a group: that of a single file, or a hash of all names and versions of a bundle."""
    if len(versions) == 1:
        return next(iter(versions.values()))
    return hashlib.sha256(json.dumps(versions).encode()).hexdigest()


def _local_minima(names: Sequence[str]) -> list[int]:
    """Return the positions of names whose hash is the smallest within REACH names on either side."""
    hashes = np.array([int.from_bytes(hashlib.blake2b(n.encode(), digest_size=8).digest(), "big") for n in names], "u8")
    if len(hashes) <= 2 * REACH:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(hashes, 2 * REACH + 1)
    return [int(start) + REACH for start in np.flatnonzero(windows.argmin(1) == REACH)]


def _split_by_size(names: Sequence[str], files: Mapping[str, FileVersion]) -> list[list[str]]:
    """Return consecutive names in groups of at most BUNDLE_BYTES."""
    groups: list[list[str]] = []
    size = BUNDLE_BYTES + 1
    for name in names:
        size += files[name].size
        if size > BUNDLE_BYTES:
            groups.append([])
            size = files[name].size
        groups[-1].append(name)
    return groups
