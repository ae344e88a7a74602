"""Delete rows by id: from the published versions at once, and from all versions by a deadline."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from hashing.mapreduce import Array, Executor
from infra.executors import Progress, connect, silent
from infra.settings import Settings, current_user
from storage import queries, warehouse
from storage.features import deletions, keys, pieces
from storage.features.dataset import Dataset, dataset_names, load_dataset, save_dataset
from storage.features.shard import FeatureShard
from storage.tables import log
from storage.tables.commits import PublishConflict
from storage.tables.parts import Part, read_ids, without_rows
from storage.tables.table import CodeTable, Version

from ..checks import UsageError
from ..ingested import dataset_of
from ..reindex.source import fingerprint
from ..spec import Spec, Value, digest
from .history import tables_of

ATTEMPTS = 5  # to publish while other runs publish too
ID = re.compile(r"-?[0-9]{1,19}")  # int() also accepts 1_000 and non-ASCII digits
EXAMPLES = 5

Names = Sequence[int] | Sequence[str] | Sequence[bytes]  # ids of rows, or their keys


class Preview(Value):
    """Rows that a deletion would remove."""

    dataset: str
    rows: int  # in the source files; table versions may hold others
    examples: tuple[str, ...]  # ids or keys of these rows
    named_by: Literal["ids", "keys"]


class Deleted(Value):
    """The result of a deletion."""

    dataset: str
    ids: int
    rows: int  # of the source files, which later runs skip
    queries: int  # sampled queries that were removed
    published: dict[str, str]  # table -> new published version
    embedded: tuple[str, ...]  # datasets whose vectors were written again, so that `gc` deletes the files with the rows
    gone_by: str  # deadline by which `gc` removes every version that holds them


class Located(NamedTuple):
    """The locations of rows to delete."""

    dataset: Dataset
    ids: Array  # (n,) int64, one per name
    files: dict[str, dict[str, Array]]  # split -> file -> ids of its rows
    tables: list[CodeTable]  # all tables of the dataset

    @property
    def rows(self) -> Array:
        """The ids of all rows found in the source files."""
        ids = [ids for files in self.files.values() for ids in files.values()]
        return np.concatenate([np.zeros(0, np.int64), *ids])


@dataclass(frozen=True)
class Removal:
    """Ids to remove from tables, and the versions of the source shards before and after the deletion."""

    ids: Array  # sorted, distinct
    before: dict[str, str]
    after: dict[str, str]
    source: str  # fingerprint of the shards after the deletion
    due_ms: int  # deadline of the purge, in milliseconds since 1970

    def version(self, part: Part) -> str:
        """Return the version of a part without the rows: that of its shard, or one marked ~deleted if it was stale."""
        current = part.shard in self.after and part.version == self.before.get(part.shard)
        return self.after[part.shard] if current else f"{part.version}~deleted"


def delete(dataset: str, names: Names, purge_after: float = 30, progress: Progress = silent) -> Deleted:
    """Delete rows by id, or by key if rows have keys. After any failure, the same call completes the deletion.

    The deletion is recorded first, so later runs skip the rows. Then each code table of the dataset publishes a version
    without them; all other codes are unchanged. The same is done for datasets that were embedded from it, and files of
    their vectors are written again without the rows. Older versions that hold the rows can be searched and measured
    until `purge_after` days have passed; `gc` removes them early enough to delete their files by then.

    Raises UsageError for names that cannot be ids; ValueError if no source file and no table version holds any of them.
    """
    settings = Settings()
    executor = connect(settings, progress)
    located = _locate(dataset, names, settings, executor)
    source, wanted = located.dataset, np.unique(located.ids)
    new = np.setdiff1d(wanted, deletions.deleted_ids(source.deleted))
    earlier = source.deleted
    if len(new):
        recorded = {split: sorted(found) for split, found in located.files.items()}
        deletions.add_deletion(
            warehouse.DELETIONS.url(settings.warehouse_url, dataset=dataset), new, recorded, current_user()
        )
    else:  # a repeated run: use the state before this deletion
        earlier = tuple(note for note in earlier if not np.isin(deletions.deleted_ids((note,)), wanted).any())
    before = source.model_copy(update={"deleted": earlier}).shards("base")
    erased = _erase(dataset, settings, executor)
    after = dataset_of(Spec(dataset=dataset), settings).shards("base")
    removal = Removal(
        ids=wanted,
        before={shard.name: shard.version for shard in before},
        after={shard.name: shard.version for shard in after},
        source=fingerprint(after),
        due_ms=int((time.time() + purge_after * 86_400) * 1000),
    )
    drawn = queries.remove_queries(settings.warehouse_url, dataset, wanted)
    tables = tables_of(settings, dataset)  # as they are now: a run may have created one since rows were located
    published = {table.name: name for table in tables if (name := _publish(table, removal, executor))}
    embedded = {one: _find(one, names, settings, executor) for one in _embedded_from(dataset, settings)}
    for one, found in embedded.items():
        if _holds_any(found, executor):
            published |= delete(one, names, purge_after, progress).published
    return Deleted(
        dataset=dataset,
        ids=len(wanted),
        rows=len(located.rows),
        queries=drawn,
        published=published,
        embedded=(*([dataset] if erased else []), *(one for one, found in embedded.items() if len(found.rows))),
        gone_by=log.utc_timestamp(removal.due_ms),
    )


def _erase(name: str, settings: Settings, executor: Executor) -> bool:
    """Write the files of an embedded dataset that hold deleted rows again without them; return whether any did.

    Nothing lists the earlier files then, so `gc` deletes them.
    """
    dataset = dataset_of(Spec(dataset=name), settings)
    if not (how := dataset.embedding):
        return False
    listed, renamed = dict[str, dict[str, str]](), set[tuple[str, str]]()
    for split, stems in how.pieces.items():
        suffixes = deletions.version_suffixes(dataset.deleted, split)
        listed[split] = {one: pieces.without_deleted(stem, suffixes.get(one, "")) for one, stem in stems.items()}
        renamed |= {(stem, listed[split][one]) for one, stem in stems.items() if listed[split][one] != stem}
    if not renamed:
        return False
    write = partial(pieces.erase_rows, shard=dataset.shards("base")[0], warehouse=settings.warehouse_url, dataset=name)
    list(executor.map(write, sorted(renamed), f"erase from {name}"))
    if load_dataset(settings.warehouse_url, name).embedding == how:
        # If `embed` writes the dataset just now, its list of files is lost. The files are not: the next run lists them.
        how = how.model_copy(update={"pieces": listed})
        save_dataset(settings.warehouse_url, dataset.model_copy(update={"embedding": how}))
    _erase(name, settings, executor)  # `embed`, or another deletion, may have written the dataset meanwhile
    return True


def preview(dataset: str, names: Names, progress: Progress = silent) -> Preview:
    """Return the rows that `delete` would remove. Writes only ids of new keys. Raises ValueError as `delete` does."""
    settings = Settings()
    located = _locate(dataset, names, settings, connect(settings, progress))
    rows = located.rows
    found = np.isin(located.ids, rows) if len(rows) else np.ones(len(located.ids), bool)
    examples = tuple(str(names[i]) for i in np.flatnonzero(found)[:EXAMPLES])
    return Preview(dataset=dataset, rows=len(rows), examples=examples, named_by=_named_by(located.dataset))


def _locate(dataset: str, names: Names, settings: Settings, executor: Executor) -> Located:
    """Locate rows in the source. Raises ValueError if no source file and no table version holds any."""
    located = _find(dataset, names, settings, executor)
    if not _holds_any(located, executor):
        source = located.dataset
        raise ValueError(
            f"{dataset} has no row with any of the {len(located.ids)} given {_named_by(source)}, such as {names[0]!r}"
        )
    return located


def _holds_any(located: Located, executor: Executor) -> bool:
    """Return whether a source file or a table version holds any of the rows."""
    wanted = np.unique(located.ids)
    return len(located.rows) > 0 or any(_holders(table, wanted, executor) for table in located.tables)


def _embedded_from(dataset: str, settings: Settings) -> list[str]:
    """Return the names of the datasets whose vectors come from the rows of a dataset, under the same ids or keys."""
    datasets = (load_dataset(settings.warehouse_url, name) for name in dataset_names(settings.warehouse_url))
    return [one.name for one in datasets if one.embedding and one.embedding.source == dataset]


def _find(dataset: str, names: Names, settings: Settings, executor: Executor) -> Located:
    """Locate rows in the source."""
    source = dataset_of(Spec(dataset=dataset), settings)
    origin = dataset_of(Spec(dataset=source.embedding.source), settings) if source.embedding else source
    if origin.columns.numbered:
        raise UsageError(
            f"rows of {dataset} have no ids of their own, and their numbers change with the files: ingest it with "
            "--id-column or --key-column to delete rows, or remove them from its files"
        )
    ids, mine = _ids(source, names, executor), tables_of(settings, dataset)
    return Located(source, ids, {split: _files(source, split, ids, executor) for split in source.splits}, mine)


def _named_by(source: Dataset) -> Literal["ids", "keys"]:
    return "keys" if source.columns.keyed else "ids"


def _ids(source: Dataset, names: Names, executor: Executor) -> Array:
    """Return the id of each name, after new keys of the source were given ids."""
    if not len(names):
        raise UsageError(f"expected {_named_by(source)} of rows of {source.name} to delete, found none")
    if source.columns.keyed:
        shards = [shard for split in source.splits for shard in source.shards(split)]
        for found in executor.map(FeatureShard.distinct_keys, shards, "keys"):
            keys.assign_ids(source.keys, found)
        given = [name if isinstance(name, bytes) else str(name) for name in names]
        return keys.find_ids(source.keys, given, f"the rows of {source.name} to delete")
    for name in names:
        if not ID.fullmatch(str(name)) or not -(2**63) <= int(name) < 2**63:
            raise UsageError(f"expected ids of {source.name} as 64-bit integers such as 7 or -12, found {name!r}")
    return np.array([int(name) for name in names], np.int64)


def _files(source: Dataset, split: str, wanted: Array, executor: Executor) -> dict[str, Array]:
    """Return the ids of the wanted rows in each file of a split, by relative file name."""
    found = executor.map(partial(FeatureShard.ids_by_file, wanted=wanted), source.shards(split), f"find in {split}")
    names = {file.url: name for name, file in source.files(split).items()}
    return {names[url]: ids for one in found for url, ids in one.items()}


def _publish(table: CodeTable, removal: Removal, executor: Executor) -> str | None:
    """Publish a version without the rows, and schedule the purge of versions with them.

    Return the name of the new version; None if the published version holds none of them. No run can publish what it
    staged before the purge was scheduled: see `CodeTable.publish`.
    """
    for _ in range(ATTEMPTS):
        base = table.refresh().version()
        if not (holders := _holders(table, removal.ids, executor)):
            return None
        log.schedule_purge(table, holders, removal.due_ms, len(removal.ids), current_user())
        if base.name not in holders:
            if table.version().snapshot_id == base.snapshot_id:
                return None
            continue  # a run published meanwhile, before it could notice the deletion
        rewritten = _rewritten(table, base, removal, executor)
        parts = table.parts(base.snapshot_id) | {part.shard: part for part in rewritten}
        kept = {key: value for key, value in base.properties.items() if not key.startswith("encode")}
        properties = kept | {
            "rows": str(sum(part.rows for part in parts.values())),
            "source": removal.source,
            "measured_at": base.properties.get("measured_at", base.name),  # the version that the metrics belong to
            "deleted": str(len(removal.ids)),
            "by": current_user(),
            "at": log.utc_timestamp(),
        }
        branch = f"staged-delete-{digest(base.snapshot_id, removal.ids.tolist())[:12]}"
        table.stage(branch, base.snapshot_id)
        table.replace(branch, rewritten, set(), properties)
        try:
            return table.publish(table.version(branch), base.snapshot_id).name
        except PublishConflict:  # another run published: retry on its version
            table.reject(table.version(branch))
    raise PublishConflict(
        f"could not publish {table.name} without the deleted rows: other runs published {ATTEMPTS} times meanwhile; "
        "run the deletion again"
    )


def _holders(table: CodeTable, wanted: Array, executor: Executor) -> list[str]:
    """Return the names of versions that hold any of the ids."""
    urls = {
        version.name: {part.url for part in table.parts(version.snapshot_id).values() if _near(part, wanted)}
        for version in table.versions()
    }
    every = sorted(set[str]().union(*urls.values()))
    counts = executor.map(partial(_count, wanted=wanted), every, f"find in {table.name}")
    holding = {url for url, count in zip(every, counts, strict=True) if count}
    return [name for name, found in urls.items() if found & holding]


def _near(part: Part, ids: Array) -> bool:
    """Return whether any of the ids, which are sorted, lies in the id range of a part."""
    return bool(np.searchsorted(ids, part.min_id) < np.searchsorted(ids, part.max_id, "right"))


def _count(url: str, wanted: Array) -> int:
    return int(np.isin(read_ids(url), wanted).sum())


def _rewritten(table: CodeTable, base: Version, removal: Removal, executor: Executor) -> list[Part]:
    """Return new parts, without the rows, for the parts of a version that hold any."""
    parts = table.parts(base.snapshot_id).values()
    touched = [(part, removal.version(part)) for part in parts if _near(part, removal.ids)]
    without = partial(_without, ids=removal.ids, folder=table.folder, n_bits=table.n_bits)
    return [part for part in executor.map(without, touched, f"rewrite {table.name}") if part]


def _without(touched: tuple[Part, str], ids: Array, folder: str, n_bits: int) -> Part | None:
    part, version = touched
    return without_rows(part, ids, folder, version, n_bits)
