"""Tiny source files are encoded in bundles: a task, a part and an entry of the table for a dozen or two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from ..files.filesystem import FileVersion

TINY = 2**20  # bytes: what is larger is worth a task of its own
BUNDLE_BYTES = 2**25
REACH = 8  # a bundle has more files than this, and twice as many on average; fewer are no burden, and stay alone


def bundled(files: Mapping[str, FileVersion]) -> list[list[str]]:
    """The names of some files, each alone or with its bundle, by name.

    A bundle begins at a name whose hash is the least for some places around: a file that comes, goes or changes is felt
    by its own bundle and by those beside it at most.
    """
    groups = [[name] for name in files if files[name].size >= TINY]
    tiny = sorted(name for name in files if files[name].size < TINY)
    starts = [0, *_least(tiny), len(tiny)]
    for start, stop in pairwise(starts):
        for group in _filled(tiny[start:stop], files):
            groups += [group] if len(group) > REACH else [[name] for name in group]
    return sorted(groups)


def version(versions: Mapping[str, str]) -> str:
    """A file's own version, or that of a bundle: of the names and versions of all that are in it."""
    if len(versions) == 1:
        return next(iter(versions.values()))
    return hashlib.sha256(json.dumps(versions).encode()).hexdigest()


def _least(names: Sequence[str]) -> list[int]:
    """The places of names whose hash is the least of all within reach on both sides."""
    hashes = np.array([int.from_bytes(hashlib.blake2b(n.encode(), digest_size=8).digest(), "big") for n in names], "u8")
    if len(hashes) <= 2 * REACH:
        return []
    windows = np.lib.stride_tricks.sliding_window_view(hashes, 2 * REACH + 1)
    return [int(place) + REACH for place in np.flatnonzero(windows.argmin(1) == REACH)]


def _filled(names: Sequence[str], files: Mapping[str, FileVersion]) -> list[list[str]]:
    """Names in groups that are no larger than a bundle may be."""
    groups: list[list[str]] = []
    held = BUNDLE_BYTES + 1
    for name in names:
        held += files[name].size
        if held > BUNDLE_BYTES:
            groups.append([])
            held = files[name].size
        groups[-1].append(name)
    return groups
