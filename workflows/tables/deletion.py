"""Rows deleted by id: noted beside the dataset, out of what is published at once, and out of all versions by a time."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from hashing.mapreduce import Array, Executor
from infra.executors import Progress, connect, silent
from infra.settings import Settings, current_user
from storage import queries
from storage.features import deletions, keys
from storage.features.dataset import Dataset
from storage.features.shard import FeatureShard
from storage.files import filesystem
from storage.tables import log
from storage.tables.parts import Part, read_ids, without_rows
from storage.tables.table import CodeTable, PublishConflict, Version

from ..checks import UsageError
from ..datasets import dataset_of
from ..reindex.source import fingerprint
from ..spec import Spec, Value, digest
from .history import of_dataset

ATTEMPTS = 5
ID = re.compile(r"-?[0-9]{1,19}")  # int() would take 1_000 and other scripts' digits too
EXAMPLES = 5


class Preview(Value):
    """Rows that a deletion would remove."""

    dataset: str
    rows: int  # in the source's files; versions of tables may hold others
    examples: tuple[str, ...]  # ids, or keys, of such rows


class Deleted(Value):
    """What a deletion came to."""

    dataset: str
    ids: int
    rows: int  # of the source's files, which stay as they are, and are left out from now on
    queries: int  # that had been drawn, and are none any more
    published: dict[str, str]  # table -> the version without them that readers see now
    gone_by: str  # when `gc` will have dropped every version with them


class Located(NamedTuple):
    """Where rows to be deleted are."""

    dataset: Dataset
    ids: Array  # (n,) int64, one a name
    files: dict[str, dict[str, Array]]  # split -> file -> ids of its rows
    tables: list[CodeTable]  # all of the dataset

    @property
    def rows(self) -> Array:
        """The ids of all rows found in the source's files."""
        ids = [ids for files in self.files.values() for ids in files.values()]
        return np.concatenate([np.zeros(0, np.int64), *ids])


@dataclass(frozen=True)
class Removal:
    """Ids to be taken out of tables, and the versions of the source's shards before and after."""

    ids: Array  # sorted, distinct
    before: dict[str, str]
    after: dict[str, str]
    source: str  # fingerprint of the shards after
    due_ms: int

    def within(self, part: Part) -> bool:
        """Whether some id lies in the range of a part's."""
        return bool(np.searchsorted(self.ids, part.min_id) < np.searchsorted(self.ids, part.max_id, "right"))

    def version(self, part: Part) -> str:
        """The version of a part without the rows: that of its shard now, unless it was out of date before."""
        current = part.shard in self.after and part.version == self.before.get(part.shard)
        return self.after[part.shard] if current else f"{part.version}~deleted"


def delete(
    dataset: str, names: Sequence[int] | Sequence[str], purge_after: float = 30, progress: Progress = silent
) -> Deleted:
    """Delete rows by id, or by key where rows have keys. Run it again after any failure: nothing is done twice.

    They are noted first, and so no later run reads them. Then each code table of the dataset gets a version without
    them, in which the other codes are as they were. Older versions that hold them can be searched and measured until
    `purge_after` days have passed; `gc` drops them so that their files are gone by then.

    Raises ValueError where no file of the source and no version of a table holds any of the ids.
    """
    settings = Settings()
    executor = connect(settings, progress)
    located = _locate(dataset, names, settings, executor)
    source, wanted = located.dataset, np.unique(located.ids)
    new = np.setdiff1d(wanted, deletions.deleted_ids(source.deleted))
    earlier = source.deleted
    if len(new):
        told = {split: sorted(found) for split, found in located.files.items()}
        deletions.add_deletion(deletions.deletions_folder(settings.warehouse_url, dataset), new, told, current_user())
    else:  # run again: what it was before this deletion
        earlier = tuple(note for note in earlier if not np.isin(deletions.deleted_ids((note,)), wanted).any())
    before = source.model_copy(update={"deleted": earlier}).shards("base")
    after = dataset_of(Spec(dataset=dataset), settings).shards("base")
    removal = Removal(
        ids=wanted,
        before={shard.name: shard.version for shard in before},
        after={shard.name: shard.version for shard in after},
        source=fingerprint(after),
        due_ms=int((time.time() + purge_after * 86_400) * 1000),
    )
    return Deleted(
        dataset=dataset,
        ids=len(wanted),
        rows=len(located.rows),
        queries=queries.remove_queries(settings.warehouse_url, dataset, wanted),
        published={table.name: name for table in located.tables if (name := _publish(table, removal, executor))},
        gone_by=log.utc_timestamp(removal.due_ms),
    )


def preview(dataset: str, names: Sequence[int] | Sequence[str], progress: Progress = silent) -> Preview:
    """Return what `delete` would remove. Nothing is written. Raises ValueError as `delete` does."""
    settings = Settings()
    located = _locate(dataset, names, settings, connect(settings, progress))
    rows = located.rows
    there = np.isin(located.ids, rows) if len(rows) else np.ones(len(located.ids), bool)
    examples = tuple(str(names[place]) for place in np.flatnonzero(there)[:EXAMPLES])
    return Preview(dataset=dataset, rows=len(rows), examples=examples)


def _locate(dataset: str, names: Sequence[int] | Sequence[str], settings: Settings, executor: Executor) -> Located:
    """Find rows in the source. Raises ValueError if no file of it and no version of a table holds any."""
    source = dataset_of(Spec(dataset=dataset), settings)
    ids, mine = _ids(source, names), of_dataset(settings, dataset)
    located = Located(source, ids, {split: _files(source, split, ids, executor) for split in source.splits}, mine)
    if not len(located.rows) and not any(_holders(table, np.unique(ids), executor) for table in mine):
        raise ValueError(f"expected ids of rows of {dataset}, found none of {len(ids)}, such as {ids[:1]}")
    return located


def _ids(source: Dataset, names: Sequence[int] | Sequence[str]) -> Array:
    """Return the id of each name."""
    if source.columns.keyed:
        return keys.find_ids(source.keys, map(str, names), f"the rows of {source.name} to delete")
    for name in names:
        if not ID.fullmatch(str(name)) or not -(2**63) <= int(name) < 2**63:
            raise UsageError(
                f"expected ids of {source.name}, whole numbers of 64 bits such as 7 or -12, found {name!r}"
            )
    return np.array([int(name) for name in names], np.int64)


def _files(source: Dataset, split: str, wanted: Array, executor: Executor) -> dict[str, Array]:
    """The files of a split that have rows of the ids, by their names below it, and the ids of these rows."""
    found = executor.map(partial(FeatureShard.ids_by_file, wanted=wanted), source.shards(split), f"find in {split}")
    return {filesystem.relative_path(source.splits[split], url): ids for one in found for url, ids in one.items()}


def _publish(table: CodeTable, removal: Removal, executor: Executor) -> str | None:
    """Publish a version without the rows, and note which versions have them; None where none has."""
    for _ in range(ATTEMPTS):
        base = table.refresh().version()
        if not (holders := _holders(table, removal.ids, executor)):
            return None
        log.schedule_purge(table, holders, removal.due_ms, len(removal.ids), current_user())
        if base.number == 0:  # nothing is published, and what is staged never will be
            return None
        rewritten = _rewritten(table, base, removal, executor)
        parts = table.parts(base.snapshot_id) | {part.shard: part for part in rewritten}
        kept = {key: value for key, value in base.properties.items() if not key.startswith("encode")}
        properties = kept | {
            "rows": str(sum(part.rows for part in parts.values())),
            "source": removal.source,
            "measured_at": base.properties.get("measured_at", base.name),  # the metrics are those of that version
            "deleted": str(len(removal.ids)),
            "by": current_user(),
            "at": log.utc_timestamp(),
        }
        branch = f"staged-delete-{digest(base.snapshot_id, removal.ids.tolist())[:12]}"
        table.stage(branch, base.snapshot_id)
        table.replace(branch, rewritten, set(), properties)
        try:
            return table.publish(table.version(branch), base.snapshot_id).name
        except PublishConflict:  # somebody published: that version is looked at anew
            table.reject(table.version(branch))
    raise PublishConflict(f"expected to publish {table.name} without the rows, found other writers {ATTEMPTS} times")


def _holders(table: CodeTable, wanted: Array, executor: Executor) -> list[str]:
    """The versions that hold rows of some ids."""
    removal = Removal(wanted, {}, {}, "", 0)
    urls = {
        version.name: {part.url for part in table.parts(version.snapshot_id).values() if removal.within(part)}
        for version in table.versions()
    }
    every = sorted(set[str]().union(*urls.values()))
    counts = executor.map(partial(_count, wanted=wanted), every, f"find in {table.name}")
    holding = {url for url, count in zip(every, counts, strict=True) if count}
    return [name for name, found in urls.items() if found & holding]


def _count(url: str, wanted: Array) -> int:
    return int(np.isin(read_ids(url), wanted).sum())


def _rewritten(table: CodeTable, base: Version, removal: Removal, executor: Executor) -> list[Part]:
    """The parts of a version that held some of the rows, without them."""
    parts = table.parts(base.snapshot_id).values()
    touched = [(part, removal.version(part)) for part in parts if removal.within(part)]
    without = partial(_without, ids=removal.ids, folder=table.folder, n_bits=table.n_bits)
    return [part for part in executor.map(without, touched, f"rewrite {table.name}") if part]


def _without(touched: tuple[Part, str], ids: Array, folder: str, n_bits: int) -> Part | None:
    part, version = touched
    return without_rows(part, ids, folder, version, n_bits)
