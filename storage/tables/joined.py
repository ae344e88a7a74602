"""Small parts read together: a task costs more than the few rows of one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hashing.mapreduce import Batch, Shard, concatenated

from .parts import CodeShard, CommonRows


@dataclass(frozen=True)
class JoinedParts:
    """Parts of few rows together, as a Shard of one batch."""

    shards: tuple[CodeShard | CommonRows, ...]

    def __iter__(self) -> Iterator[Batch]:
        if batches := [batch for shard in self.shards for batch in shard]:
            yield concatenated(batches)


def joined(shards: Sequence[CodeShard | CommonRows]) -> list[Shard]:
    """Return the shards with consecutive small ones joined.

    Only for statistics that are equal for any cut into batches, and into shards.
    """
    groups: list[list[CodeShard | CommonRows]] = []
    rows = 0
    for shard in shards:
        rows += shard.rows
        if not groups or rows > shard.batch_rows:
            groups.append([])
            rows = shard.rows
        groups[-1].append(shard)
    return [JoinedParts(tuple(group)) if len(group) > 1 else group[0] for group in groups]
