"""Delete expired versions of a code table, and files that no version references.

A file is deleted if it was written before the grace period, and no metadata that was current within the period
references it. Readers that opened a version within the period therefore find all of its files, and files that are being
written are safe. Files with names that hashkiln does not give are kept.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pyiceberg.serializers import FromInputFile
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import AssertRefSnapshotId, RemoveSnapshotRefUpdate, RemoveSnapshotsUpdate

from .. import warehouse
from ..files import filesystem
from ..files.filesystem import StoredFile
from ..files.uploads import Upload, abort_upload, incomplete_uploads
from . import log
from .commits import commit, retry_commit
from .iceberg import PREFIX
from .part_index import index_url
from .parts import quarantine_urls
from .table import CodeTable

DIGEST = re.compile(r"[0-9a-f]{64}")


class Garbage(NamedTuple):
    """What was deleted, or would be by a dry run."""

    versions: dict[str, str]  # name -> reason
    snapshots: tuple[int, ...]  # snapshots of these versions, and unnamed ones that no staged version needs
    files: tuple[StoredFile, ...]
    uploads: tuple[Upload, ...]


def collect(
    table: CodeTable,
    grace: float,
    keep: int | None = None,
    dry_run: bool = False,
    clock: Callable[[], float] = time.time,
) -> Garbage:
    """Drop the expired versions of a table, then delete unreferenced files. Return both.

    The current version never expires. Other versions expire if

    - they were rejected before the grace period,
    - they were staged before the grace period, and their base is no longer published,
    - they hold deleted rows, and their deadline is at most one grace period away,
    - they were published, and are not among the last `keep`.

    `grace` is in seconds; without `keep`, no published version expires. Raises FileNotFoundError if a file that a
    version needs is missing; no file is deleted then.
    """
    dropped = _drop_versions(table, grace, keep, dry_run, clock)
    limit = clock() - grace
    inventory = filesystem.inventory(table.iceberg.location())  # before the metadata, which then has all commits
    table.refresh()
    dropped_snapshots = dropped.snapshots if dry_run and not (grace and time.time() > limit) else ()
    referenced = _referenced_files(table, inventory, limit, dropped_snapshots)
    root = filesystem.absolute(table.iceberg.location())
    files = tuple(
        file
        for file in inventory
        if file.modified < limit and file.url not in referenced and _is_own(filesystem.relative_path(root, file.url))
    )
    uploads = tuple(incomplete_uploads(root, limit))
    if not dry_run:
        files = tuple(file for file in files if remove_if_older(file, limit))
        for upload in uploads:
            abort_upload(upload)
    return dropped._replace(files=files, uploads=uploads)


def _is_own(path: str) -> bool:
    """Return whether a path below a table's folder has a name that hashkiln gives."""
    incomplete = warehouse.TEMPORARY.fullmatch(path)
    final = re.sub(r"\.([^/]+)\.[0-9a-f]{32}$", r"\1", path) if incomplete else path
    places = warehouse.PART, warehouse.PART_INDEX, warehouse.QUARANTINE, warehouse.QUARANTINE_IN_DATA
    return any(pattern.fullmatch(final) for pattern in (*(place.pattern for place in places), warehouse.ICEBERG_FILES))


def remove_if_older(file: StoredFile, limit: float) -> bool:
    """Delete a file unless it was written since `limit`, and return whether it was deleted."""
    try:
        if filesystem.modification_time(file.url) >= limit:
            return False
        filesystem.remove(file.url)
    except FileNotFoundError:  # another collector deleted it
        return False
    return True


def referenced_digests(table: CodeTable, grace: float, clock: Callable[[], float] = time.time) -> set[str]:
    """Return the digests of models and pretrained parameters that versions reference, or did within `grace` seconds."""
    inventory = filesystem.inventory(warehouse.METADATA.url(table.iceberg.location()))
    table.refresh()
    states = _recent_metadata(table, inventory, clock() - grace)
    summaries = [s.summary.additional_properties for state in states for s in state.snapshots if s.summary]
    texts = (summary.get(PREFIX + key, "") for summary in summaries for key in ("model", "spec"))
    return set(DIGEST.findall(" ".join(texts)))


def _drop_versions(
    table: CodeTable, grace: float, keep: int | None, dry_run: bool, clock: Callable[[], float]
) -> Garbage:
    """Remove the names of expired versions in one commit, and in another the snapshots that no name needs then.

    No commit can need one of these snapshots in the meantime, because commits refer only to named snapshots.
    """

    def drop_names() -> dict[str, str]:
        versions, refs = _expired(table, grace, keep, clock()), table.iceberg.refs()
        if versions and not dry_run:
            unchanged = [AssertRefSnapshotId(ref=n, snapshot_id=refs[n].snapshot_id) for n in ("main", *versions)]
            commit(table.iceberg, tuple(unchanged), tuple(RemoveSnapshotRefUpdate(ref_name=n) for n in versions))
        return versions

    def drop_snapshots() -> tuple[int, ...]:
        names = table.iceberg.refs().keys() - (versions.keys() if dry_run else ())
        needed = set(_needed_snapshots(table, names))
        unneeded = tuple(s.snapshot_id for s in table.iceberg.metadata.snapshots if s.snapshot_id not in needed)
        if unneeded and not dry_run:
            commit(table.iceberg, (), (RemoveSnapshotsUpdate(snapshot_ids=list(unneeded)),))
        return unneeded

    versions = retry_commit(table.iceberg, drop_names)
    return Garbage(versions, retry_commit(table.iceberg, drop_snapshots), (), ())


def _expired(table: CodeTable, grace: float, keep: int | None, now: float) -> dict[str, str]:
    """Return the names of expired versions, with the reason."""
    main, deadlines, expired = table.version(), log.purge_deadlines(table), {}
    published = sorted((v for v in table.versions() if v.number > 0), key=lambda version: version.number)
    surplus = {version.name for version in published[: -max(1, keep)]} if keep is not None else set()
    for version in table.versions():
        old = version.timestamp_ms / 1000 < now - grace
        if version.name == main.name:
            continue
        due = deadlines.get(version.name)
        if due is not None and due / 1000 <= now + grace:  # one grace period early: its files live that much longer
            expired[version.name] = f"holds deleted rows, which must be gone by {log.utc_timestamp(due)}"
        elif version.name in surplus:
            expired[version.name] = f"older than the last {keep} published versions"
        elif version.name.startswith("rejected-") and old:
            expired[version.name] = "rejected, and older than the grace period"
        elif version.name.startswith("staged-") and old:
            ancestors = {snapshot.snapshot_id for snapshot in _lineage(table, version.snapshot_id)}
            if main.snapshot_id not in ancestors:
                expired[version.name] = "its base is no longer published, and it is older than the grace period"
    return expired


def _needed_snapshots(table: CodeTable, names: Iterable[str]) -> Iterator[int]:
    """Yield the snapshots that names need. A staged version also needs its earlier commits, back to its base."""
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
    """Yield a snapshot and those of its ancestors that the table still has."""
    while snapshot_id is not None and (snapshot := table.iceberg.snapshot_by_id(snapshot_id)):
        yield snapshot
        snapshot_id = snapshot.parent_snapshot_id


def _referenced_files(
    table: CodeTable, inventory: list[StoredFile], limit: float, dropped_snapshots: tuple[int, ...]
) -> set[str]:
    """Return the files referenced by metadata that was current since `limit`, without those of dropped snapshots.

    Raises FileNotFoundError if a file that the table needs now is missing or not listed under the expected path.
    """
    listed = {file.url for file in inventory}
    current = {s.snapshot_id for s in table.iceberg.metadata.snapshots} - set(dropped_snapshots)
    referenced, needed = {filesystem.absolute(table.iceberg.metadata_location)}, set[str]()
    snapshots: dict[int, Snapshot] = {}
    for state in _recent_metadata(table, inventory, limit):
        referenced |= {filesystem.absolute(entry.metadata_file) for entry in state.metadata_log}
        referenced |= {filesystem.absolute(f.statistics_path) for f in (*state.statistics, *state.partition_statistics)}
        snapshots |= {s.snapshot_id: s for s in state.snapshots if s.snapshot_id not in dropped_snapshots}
    read = set[str]()
    for snapshot in sorted(snapshots.values(), key=lambda snapshot: snapshot.snapshot_id not in current):
        files = set[str]()
        try:
            _add_files(table, snapshot, files, read)
        except FileNotFoundError:  # a lost commit race, or an earlier collection with a shorter grace period
            if snapshot.snapshot_id in current:
                raise
        referenced |= files | {beside for url in files for beside in (*quarantine_urls(url), index_url(url))}
        needed |= files if snapshot.snapshot_id in current else set()
    for url in sorted(needed - listed):
        try:
            missing = filesystem.modification_time(url) < limit  # otherwise it was written after the inventory
        except FileNotFoundError:
            missing = True
        if missing:
            raise FileNotFoundError(
                f"{url} is missing from the folder of table {table.name}, which needs it: nothing was deleted; "
                f"run `hashkiln verify {table.name}`"
            )
    return referenced


def _add_files(table: CodeTable, snapshot: Snapshot, files: set[str], read: set[str]) -> None:
    """Add a snapshot's manifest list, its manifests and their parts, except for manifests that were read before."""
    io = table.iceberg.io
    files.add(filesystem.absolute(snapshot.manifest_list))
    for manifest in snapshot.manifests(io):
        if (url := filesystem.absolute(manifest.manifest_path)) not in read:
            entries = manifest.fetch_manifest_entry(io)
            files |= {url, *(filesystem.absolute(entry.data_file.file_path) for entry in entries)}
            read.add(url)


def _recent_metadata(table: CodeTable, inventory: list[StoredFile], limit: float) -> list[TableMetadata]:
    """Return the table's current metadata, and all metadata that was current at any time since `limit`.

    The latter was written since then, or is the predecessor of a file that was.
    """
    listed = {file.url for file in inventory}
    recent = {file.url for file in inventory if file.url.endswith(".metadata.json") and file.modified >= limit}
    states = [state for url in sorted(recent) if (state := _metadata(table, url))]
    before = {filesystem.absolute(state.metadata_log[-1].metadata_file) for state in states if state.metadata_log}
    states += [state for url in sorted((before - recent) & listed) if (state := _metadata(table, url))]
    return [*states, table.iceberg.metadata]


def _metadata(table: CodeTable, url: str) -> TableMetadata | None:
    """Return the metadata in a file; None if its writer was killed and never committed it."""
    try:
        return FromInputFile.table_metadata(table.iceberg.io.new_input(url))
    except (FileNotFoundError, ValueError):
        return None
