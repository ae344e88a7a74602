"""What nothing names any more: versions past their time, and files of a table that no version holds.

A file goes when no metadata names it that was current at any time within the grace, and it was written before. Whoever
opened a version within the grace therefore finds all of its files, and what is being written is never touched. What has
a name that is none of ours stays.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pyiceberg.serializers import FromInputFile
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import RemoveSnapshotRefUpdate, RemoveSnapshotsUpdate, TableUpdate

from .. import warehouse
from ..files import filesystem
from ..files.filesystem import StoredFile, Upload
from . import log
from .commits import commit, retry_commit
from .iceberg import PREFIX, AssertRefs
from .parts import quarantine
from .table import CodeTable

DIGEST = re.compile(r"[0-9a-f]{64}")


class Garbage(NamedTuple):
    """What goes, or would go."""

    versions: dict[str, str]  # name -> why
    snapshots: tuple[int, ...]  # of versions that go, and steps of stagings that nobody needs
    files: tuple[StoredFile, ...]
    uploads: tuple[Upload, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def collect(
    table: CodeTable,
    grace: float,
    keep: int | None = None,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
) -> Garbage:
    """Drop the versions of a table that are past their time, then delete the files that nothing names any more.

    Past their time are, after so many seconds of grace, rejected versions and stagings that began at another version
    than is published; versions with deleted rows when these are due; and published ones but the last `keep`, if given.
    What readers see is never dropped. Raises an error, and deletes nothing, where a file of a version is lost.
    """
    dropped = _drop(table, grace, keep, dry_run, clock)
    limit = clock() - grace
    inventory = filesystem.inventory(
        table.iceberg.location()
    )  # before metadata: what is committed since is named there
    table.refresh()
    going = dropped.snapshots if dry_run and not (grace and time.time() > limit) else ()
    named = _named(table, inventory, limit, going)
    root = filesystem.absolute(table.iceberg.location())
    files = tuple(
        file
        for file in inventory
        if file.modified < limit and file.url not in named and _ours(filesystem.relative_path(root, file.url))
    )
    uploads = tuple(upload for upload in filesystem.incomplete_uploads(root) if upload.started < limit)
    if not dry_run:
        files = tuple(file for file in files if remove(file, limit))
        for upload in uploads:
            filesystem.abort_upload(upload)
    return dropped._replace(files=files, uploads=uploads)


def _ours(path: str) -> bool:
    """Whether a file below a table's folder has a name that only we give."""
    begun = warehouse.ATTEMPT.fullmatch(path)
    final = re.sub(r"\.([^/]+)\.[0-9a-f]{32}$", r"\1", path) if begun else path
    patterns = (warehouse.PART.pattern, warehouse.QUARANTINE.pattern, warehouse.ICEBERG_FILES)
    return any(pattern.fullmatch(final) for pattern in patterns)


def remove(file: StoredFile, limit: float) -> bool:
    """Delete a file that was last written before a time. It may have been written again since it was listed."""
    try:
        if filesystem.modification_time(file.url) >= limit:
            return False
        filesystem.remove(file.url)
    except FileNotFoundError:  # another collector was here
        return False
    return True


def named(table: CodeTable, grace: float, clock: Callable[[], float] = time.time) -> set[str]:
    """The digests of models, and of what their networks started from, of versions that it has, or had in the grace."""
    inventory = filesystem.inventory(warehouse.METADATA.url(table.iceberg.location()))
    table.refresh()
    states = _states(table, inventory, clock() - grace)
    summaries = [s.summary.additional_properties for state in states for s in state.snapshots if s.summary]
    told = (summary.get(PREFIX + key, "") for summary in summaries for key in ("model", "spec"))
    return set(DIGEST.findall(" ".join(told)))


def _drop(table: CodeTable, grace: float, keep: int | None, dry_run: bool, clock: Callable[[], float]) -> Garbage:
    """Take the names from versions past their time, and snapshots without a name from the table: one commit."""

    def attempt() -> Garbage:
        versions = _past(table, grace, keep, clock())
        refs = table.iceberg.refs()
        held = set(_held(table, refs.keys() - versions.keys()))
        loose = tuple(s.snapshot_id for s in table.iceberg.metadata.snapshots if s.snapshot_id not in held)
        if (versions or loose) and not dry_run:
            as_seen = AssertRefs(refs={name: ref.snapshot_id for name, ref in refs.items()})
            updates: list[TableUpdate] = [RemoveSnapshotRefUpdate(ref_name=name) for name in versions]
            commit(table.iceberg, (as_seen,), (*updates, RemoveSnapshotsUpdate(snapshot_ids=list(loose))))
        return Garbage(versions, loose, (), ())

    return retry_commit(table.iceberg, attempt)


def _past(table: CodeTable, grace: float, keep: int | None, now: float) -> dict[str, str]:
    """Versions past their time, and why."""
    main, doomed, past = table.version(), log.purge_deadlines(table), {}
    published = sorted((v for v in table.versions() if v.number > 0), key=lambda version: version.number)
    beyond = {version.name for version in published[: -max(1, keep)]} if keep is not None else set()
    for version in table.versions():
        old = version.timestamp_ms / 1000 < now - grace
        if version.name == main.name:
            continue
        if version.name in doomed and doomed[version.name] / 1000 <= now + grace:  # gone by then, the grace included
            past[version.name] = f"holds deleted rows, which must be gone by {log.utc_timestamp(doomed[version.name])}"
        elif version.name in beyond:
            past[version.name] = f"older than the last {keep} that are kept"
        elif version.name.startswith("rejected-") and old:
            past[version.name] = "rejected, and older than the grace"
        elif version.name.startswith("staged-") and old:
            ancestors = {snapshot.snapshot_id for snapshot in _lineage(table, version.snapshot_id)}
            if main.snapshot_id not in ancestors:
                past[version.name] = "staged from another version than is published, and older than the grace"
    return past


def _held(table: CodeTable, names: Iterable[str]) -> Iterator[int]:
    """The snapshots that some names hold. A staging needs its steps too: they tell where it began."""
    refs = table.iceberg.refs()
    heads = {refs[name].snapshot_id for name in names}
    yield from heads
    for name in names:
        if name.startswith("staged-"):
            for snapshot in _lineage(table, refs[name].snapshot_id):
                yield snapshot.snapshot_id
                if snapshot.snapshot_id in heads and snapshot.snapshot_id != refs[name].snapshot_id:
                    break


def _lineage(table: CodeTable, snapshot_id: int | None) -> Iterator[Snapshot]:
    """A snapshot and those before it, as far as they are known."""
    while snapshot_id is not None and (snapshot := table.iceberg.snapshot_by_id(snapshot_id)):
        yield snapshot
        snapshot_id = snapshot.parent_snapshot_id


def _named(table: CodeTable, inventory: list[StoredFile], limit: float, going: tuple[int, ...]) -> set[str]:
    """The files that metadata current since a time names, without those of snapshots that would go.

    Raises an error where one that the table needs today is not there, or not listed: then paths are not understood.
    """
    listed = {file.url for file in inventory}
    today = {s.snapshot_id for s in table.iceberg.metadata.snapshots} - set(going)
    named, needed = {filesystem.absolute(table.iceberg.metadata_location)}, set[str]()
    snapshots: dict[int, Snapshot] = {}
    for state in _states(table, inventory, limit):
        named |= {filesystem.absolute(entry.metadata_file) for entry in state.metadata_log}
        named |= {filesystem.absolute(f.statistics_path) for f in (*state.statistics, *state.partition_statistics)}
        snapshots |= {s.snapshot_id: s for s in state.snapshots if s.snapshot_id not in going}
    read = set[str]()
    for snapshot in sorted(snapshots.values(), key=lambda snapshot: snapshot.snapshot_id not in today):
        files = set[str]()
        try:
            _add_files(table, snapshot, files, read)
        except FileNotFoundError:  # of an attempt that lost its race, or an earlier collector's, of a shorter grace
            if snapshot.snapshot_id in today:
                raise
        named |= files | {quarantine(url) for url in files}
        needed |= files if snapshot.snapshot_id in today else set()
    for url in sorted(needed - listed):
        try:
            lost = filesystem.modification_time(url) < limit  # else it was written since the inventory
        except FileNotFoundError:
            lost = True
        if lost:
            raise FileNotFoundError(
                f"expected {url}, which table {table.name} needs, found it not in its folder's listing: nothing was "
                "deleted; `hashkiln verify` tells more"
            )
    return named


def _add_files(table: CodeTable, snapshot: Snapshot, files: set[str], read: set[str]) -> None:
    """Add a snapshot's manifest list, its manifests and their parts, but for manifests that were read before."""
    io = table.iceberg.io
    files.add(filesystem.absolute(snapshot.manifest_list))
    for manifest in snapshot.manifests(io):
        if (url := filesystem.absolute(manifest.manifest_path)) not in read:
            entries = manifest.fetch_manifest_entry(io)
            files |= {url, *(filesystem.absolute(entry.data_file.file_path) for entry in entries)}
            read.add(url)


def _states(table: CodeTable, inventory: list[StoredFile], limit: float) -> list[TableMetadata]:
    """The table's metadata as it is, and as it was at any time since the limit.

    What was current then was either written since, or is the predecessor of what was.
    """
    listed = {file.url for file in inventory}
    recent = {file.url for file in inventory if file.url.endswith(".metadata.json") and file.modified >= limit}
    states = [state for url in sorted(recent) if (state := _metadata(table, url))]
    before = {filesystem.absolute(state.metadata_log[-1].metadata_file) for state in states if state.metadata_log}
    states += [state for url in sorted((before - recent) & listed) if (state := _metadata(table, url))]
    return [*states, table.iceberg.metadata]


def _metadata(table: CodeTable, url: str) -> TableMetadata | None:
    """The metadata in a file; none where a writer was killed in the middle of it, who then never committed it."""
    try:
        return FromInputFile.table_metadata(table.iceberg.io.new_input(url))
    except (FileNotFoundError, ValueError):
        return None
