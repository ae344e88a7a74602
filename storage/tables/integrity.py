"""Whether parts are what the table says, hold each id once, and are what their source shards still encode to."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from hashing import bits
from hashing.functions import HashFunction

from ..features.shard import FeatureShard
from ..files import filesystem
from .parts import Part, code_array, digest_rows, read_part

MARGIN = 1e-4  # of a bit's scale, its mean |value - threshold|: on other machines values so near it may fall elsewhere
EXAMPLES = 3


class Recheck(NamedTuple):
    """A part beside its source shard, encoded again."""

    problems: list[str]
    bits: int  # that were compared
    near: int  # of these, differing ones whose value is at the threshold


def check_part(part: Part, n_bits: int) -> list[str]:
    """What is wrong with a part: its file, size, SHA-256, width, rows, ids. A line each."""
    try:
        if not filesystem.exists(part.url):
            return [f"expected a file of {part.size} bytes, found none, at {part.url}"]
        table = read_part(part.url, n_bits, part.size, anew=True)
    except (OSError, ValueError) as error:
        return [str(error)]
    problems, ids = [], table["id"].to_numpy()
    if len(ids) != part.rows:
        problems.append(f"expected {part.rows} rows, found {len(ids)}, in {part.url}")
    low, high = (int(ids.min()), int(ids.max())) if len(ids) else (part.min_id, part.max_id)
    if (low, high) != (part.min_id, part.max_id):
        problems.append(f"expected ids from {part.min_id} to {part.max_id}, found {low} to {high}, in {part.url}")
    unique, counts = np.unique(ids, return_counts=True)
    if (twice := unique[counts > 1]).size:
        problems.append(f"expected unique ids, found {twice.size} more than once ({_some(twice)}), in {part.url}")
    return problems


def recheck(pair: tuple[Part, FeatureShard], function: HashFunction) -> Recheck:
    """Encode a source shard again, and compare with its part: ids, codes bit by bit, the digest of what was read."""
    part, shard = pair
    try:
        table = read_part(part.url, function.n_bits, part.size)
    except (OSError, ValueError):  # told of by `check`
        return Recheck([], 0, 0)
    ids, stored = table["id"].to_numpy(), code_array(table["code"].combine_chunks(), function.n_bits)
    row = wrong = near = 0
    content = hashlib.sha256()
    try:
        for batch, _, _ in shard.read():
            n = len(batch.ids)
            if not np.array_equal(batch.ids, ids[row : row + n]):
                return Recheck(
                    [f"expected the ids of {shard.url}, found others from row {row} on, in {part.url}"], 0, 0
                )
            digest_rows(content, batch)
            theirs = bits.unpack(stored[row : row + n], function.n_bits)
            if (differing := function.encode(batch.x) != theirs).any():
                values = np.abs(function.project(batch.x))
                excused = differing & (values < MARGIN * values.mean(axis=0))
                near, wrong = near + int(excused.sum()), wrong + int((differing & ~excused).sum())
            row += n
        shard.refuse_change()
    except (OSError, ValueError) as error:
        return Recheck([f"{error}: {part.url} cannot be compared with it"], 0, 0)
    problems, compared = [], row * function.n_bits
    if row != len(ids):
        problems.append(f"expected {row} rows, as {shard.url} has, found {len(ids)}, in {part.url}")
    if wrong:
        problems.append(f"expected the bits of {shard.url}, found {wrong} of {compared} others, in {part.url}")
    told = (table.schema.metadata or {}).get(b"hashkiln.source_sha256")
    if told and told.decode() != content.hexdigest():
        problems.append(f"expected {shard.url} of content {told.decode()}, found {content.hexdigest()}")
    return Recheck(problems, compared, near)


def _some(ids: np.ndarray) -> str:
    return ", ".join(map(str, ids[:EXAMPLES])) + (", …" if len(ids) > EXAMPLES else "")
