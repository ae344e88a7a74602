"""Find ids that occur in more than one part. A table must hold each id only once."""

from collections.abc import Iterable, Iterator, Set
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np

from hashing.mapreduce import Array, Executor
from hashing.statistics import keyed_hash

from ..features import keys
from .parts import Part, read_ids

EXAMPLES = 3
HELD = 2**24  # ids in the memory of a task, 400 MB: two copies, and a hash table of up to 2**27 slots
STREAMED = 2**27  # ids that a task reads to compare them


class IdComparison(NamedTuple):
    """One task: parts whose ids are in memory, and the parts to compare them with; if none, with each other."""

    held: tuple[Part, ...]
    others: tuple[Part, ...]


class SharedIds(NamedTuple):
    """Ids that occur in two parts."""

    pairs: int
    examples: tuple[tuple[int, str, str], ...]  # (id, shard, shard), the EXAMPLES smallest


def check_shared_ids(
    parts: Iterable[Part], new: Iterable[Part], executor: Executor, skip_damaged: bool = False, keys_folder: str = ""
) -> list[str]:
    """Return a message if ids of new parts also occur in another part; an empty list otherwise.

    Only parts whose ranges of ids overlap are read. A task holds the ids of at most HELD rows, or of one part, in
    memory, and reads the others one part at a time. The driver reads none. An id in three parts counts as three pairs.

    `parts` are all parts of the table, the new ones included. With `skip_damaged`, parts that cannot be read, which
    `integrity.check_part` reports, raise no error. The folder of keys, by its URL, names rows in the message; empty if
    rows have no keys.
    """
    if not (todo := list(comparisons(parts, set(new)))):
        return []
    shared = executor.reduce(partial(_compare, skip_damaged=skip_damaged), _merge, todo, "ids")
    if not shared.pairs:
        return []
    names = keys.names_of(keys_folder, [one for one, _, _ in shared.examples])
    examples = ", ".join(f"{name} in {a} and {b}" for name, (_, a, b) in zip(names, shared.examples, strict=True))
    more = ", …" if shared.pairs > EXAMPLES else ""
    return [f"expected unique {'keys' if keys_folder else 'ids'}, found {shared.pairs} in two shards: {examples}{more}"]


def comparisons(parts: Iterable[Part], new: Set[Part]) -> Iterator[IdComparison]:
    """Yield tasks that compare each new part once with every part whose range of ids overlaps its own."""
    for group in _overlapping(parts):
        fresh, old = [part for part in group if part in new], [part for part in group if part not in new]
        for held in _packed(fresh, HELD):
            fresh = fresh[len(held) :]
            if len(held) > 1:
                yield IdComparison(held, ())
            low, high = held[0].min_id, max(part.max_id for part in held)
            near = (part for part in (*fresh, *old) if part.min_id <= high and low <= part.max_id)
            for others in _packed(near, STREAMED):
                yield IdComparison(held, others)


def _overlapping(parts: Iterable[Part]) -> list[list[Part]]:
    """Return groups of parts whose ranges of ids overlap, directly or through others, each sorted by lowest id."""
    groups: list[list[Part]] = []
    reach = 0
    for part in sorted((part for part in parts if part.rows), key=lambda part: part.min_id):
        if not groups or part.min_id > reach:
            groups.append([])
            reach = part.max_id
        groups[-1].append(part)
        reach = max(reach, part.max_id)
    return [group for group in groups if len(group) > 1]


def _packed(parts: Iterable[Part], limit: int) -> Iterator[tuple[Part, ...]]:
    """Yield consecutive parts in packs of at most `limit` rows, or of one part."""
    pack: list[Part] = []
    rows = 0
    for part in parts:
        if pack and rows + part.rows > limit:
            yield tuple(pack)
            pack, rows = [], 0
        pack.append(part)
        rows += part.rows
    if pack:
        yield tuple(pack)


def _compare(comparison: IdComparison, skip_damaged: bool) -> SharedIds:
    held = [(part.shard, _distinct(_ids(part, skip_damaged))) for part in comparison.held]
    held_ids = np.sort(np.concatenate([ids for _, ids in held]))

    def holders(shared: int) -> list[str]:
        return [shard for shard, ids in held if np.searchsorted(ids, shared) < np.searchsorted(ids, shared, "right")]

    if not comparison.others:
        repeats = held_ids[1:][held_ids[1:] == held_ids[:-1]]
        twice, times = np.unique(repeats, return_counts=True)
        pairs = [(shared, a, b) for shared in twice[:EXAMPLES].tolist() for a, b in combinations(holders(shared), 2)]
        return SharedIds(int((times * (times + 1) // 2).sum()), _smallest(pairs))
    shift = np.uint64(62 - len(held_ids).bit_length())  # at most a quarter of the slots are taken
    taken = np.zeros(2 ** (64 - int(shift)), bool)
    taken[keyed_hash(held_ids, 0) >> shift] = True
    result = SharedIds(0, ())
    for part in comparison.others:
        ids = _ids(part, skip_damaged)
        ids = _distinct(ids[taken[keyed_hash(ids, 0) >> shift]])  # ten times as fast as a search for all
        times = np.searchsorted(held_ids, ids, "right") - np.searchsorted(held_ids, ids)
        shared = ids[times > 0][:EXAMPLES].tolist()
        pairs = [(one, shard, part.shard) for one in shared for shard in holders(one)]
        result = _merge(result, SharedIds(int(times.sum()), _smallest(pairs)))
    return result


def _merge(left: SharedIds, right: SharedIds) -> SharedIds:
    return SharedIds(left.pairs + right.pairs, _smallest([*left.examples, *right.examples]))


def _smallest(pairs: list[tuple[int, str, str]]) -> tuple[tuple[int, str, str], ...]:
    return tuple(sorted((shared, min(a, b), max(a, b)) for shared, a, b in pairs)[:EXAMPLES])


def _ids(part: Part, skip_damaged: bool) -> Array:
    try:
        return read_ids(part.url)
    except (OSError, ValueError):
        if skip_damaged:
            return np.zeros(0, np.int64)
        raise


def _distinct(ids: Array) -> Array:
    """Return the sorted distinct ids, ten times as fast as np.unique."""
    ids = np.sort(ids)
    distinct: Array = ids[np.diff(ids, prepend=ids[:1] - 1) != 0]
    return distinct
