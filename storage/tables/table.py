"""Code tables: versions of a dataset's codes in Iceberg. Staged on a branch, published by one move of main."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import suppress
from typing import NamedTuple

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.manifest import DataFile
from pyiceberg.table import CreateTableTransaction, Table
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import AssertRefSnapshotId, RemoveSnapshotRefUpdate, SetPropertiesUpdate

from . import commits, iceberg
from .commits import PublishConflict, commit, retry_commit
from .iceberg import FORMAT, NAMESPACE, PREFIX
from .parts import CodeShard, Part

__all__ = [
    "CodeTable",
    "PublishConflict",
    "Version",
    "create_table",
    "future_folder",
    "load_table",
    "table_name",
    "table_names",
]

VOCABULARY = PREFIX + "vocabulary"


class Version(NamedTuple):
    """A snapshot under a name: v1, v2, … once published; staged-… and rejected-… otherwise; v0 is empty."""

    name: str
    snapshot_id: int
    timestamp_ms: int
    properties: dict[str, str]  # ours, without their prefix

    @property
    def number(self) -> int:
        return int(self.name[1:]) if re.fullmatch(r"v\d+", self.name) else -1


def table_name(dataset: str, code: str) -> str:
    """`<dataset>__<code>`, with a hyphen as an underscore. Raises ValueError for other characters."""
    name = f"{dataset}__{code}".replace("-", "_")
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"expected names of a-z, 0-9, _ and -, found dataset {dataset!r} and code {code!r}")
    return name


def table_names(catalog: Catalog) -> list[str]:
    """All code tables."""
    return sorted(name for _, name in catalog.list_tables(NAMESPACE))


def load_table(catalog: Catalog, name: str, n_bits: int | None = None) -> CodeTable:
    """A code table, of some length of codes if that is given.

    Raises LookupError, with the names there are, where there is none of that name, ValueError for another length.
    """
    try:
        table = CodeTable(catalog.load_table(f"{NAMESPACE}.{name}"))
    except NoSuchTableError:
        known = ", ".join(table_names(catalog)) or "none yet"
        raise LookupError(f"expected the name of a code table, found {name!r}; there are: {known}") from None
    if n_bits not in (None, table.n_bits):
        raise ValueError(f"expected {table.n_bits} bits, as table {name} has, found {n_bits}: use another --code")
    return table


def create_table(catalog: Catalog, name: str, n_bits: int) -> CodeTable:
    """The code table of a name, made with an empty version 0 if need be. ValueError if it has another width."""
    if name not in table_names(catalog):
        new = _new_table(catalog, name, n_bits)
        with suppress(TableAlreadyExistsError, CommitFailedException), new, new.update_snapshot().fast_append():
            pass  # table and version 0 in one commit: nobody finds the one without the other, whoever dies here
    table = load_table(catalog, name, n_bits)
    table.upgrade(iceberg.table_layout(n_bits)[2])
    return table


def future_folder(catalog: Catalog, name: str, n_bits: int) -> str:
    """Return the folder that a table will have when it is created. Nothing is written."""
    return _new_table(catalog, name, n_bits).table_metadata.location.removeprefix("file://")


def _new_table(catalog: Catalog, name: str, n_bits: int) -> CreateTableTransaction:
    layout, spec, properties = iceberg.table_layout(n_bits)
    return catalog.create_table_transaction(f"{NAMESPACE}.{name}", layout, None, spec, properties=properties)


class CodeTable:
    """One table. Every method that reads sees the catalog as it was at the last `refresh` or commit.

    Raises ValueError where the table is of a newer format than this program writes.
    """

    def __init__(self, table: Table) -> None:
        self.iceberg = table
        self.name = table.name()[-1]
        self.n_bits = int(table.properties[PREFIX + "n_bits"])
        self._parts: dict[int, dict[str, Part]] = {}
        if self.format > FORMAT:
            found = f"found format {self.format}, which a newer hashkiln wrote"
            raise ValueError(f"expected table {self.name} of format {FORMAT} or older, {found}")

    @property
    def format(self) -> int:
        return int(self.iceberg.properties.get(PREFIX + "format", 0))

    @property
    def folder(self) -> str:
        """URL of the folder that holds the table's parts, quarantine and metadata."""
        return self.iceberg.location().removeprefix("file://")

    @property
    def vocabulary(self) -> tuple[str | int, ...]:
        return tuple(json.loads(self.iceberg.properties.get(VOCABULARY, "[]")))

    def refresh(self) -> CodeTable:
        self.iceberg.refresh()
        return self

    def upgrade(self, properties: Mapping[str, str]) -> None:
        """Give a table of an older format today's properties, in one commit."""

        def attempt() -> None:
            if self.format < FORMAT:
                key, known = PREFIX + "format", self.iceberg.properties
                missing = {name: value for name, value in properties.items() if name == key or name not in known}
                unchanged = iceberg.AssertProperty(key=key, value=known.get(key))
                commit(self.iceberg, (unchanged,), (SetPropertiesUpdate(updates=missing),))

        retry_commit(self.iceberg, attempt)

    def add_labels(self, labels: Sequence[str | int]) -> tuple[str | int, ...]:
        """The vocabulary with new labels at its end. Places given once never change."""

        def attempt() -> None:
            known = set(self.vocabulary)
            if new := [label for label in labels if label not in known]:
                content = json.dumps([*self.vocabulary, *new])
                unchanged = iceberg.AssertProperty(key=VOCABULARY, value=self.iceberg.properties.get(VOCABULARY))
                commit(self.iceberg, (unchanged,), (SetPropertiesUpdate(updates={VOCABULARY: content}),))

        retry_commit(self.iceberg, attempt)
        return self.vocabulary

    # --- what there is ---------------------------------------------------------------------------------------------

    def version(self, name: str = "main") -> Version:
        """The version of a name, or the published one. Raises LookupError, with the names there are."""
        if not (snapshot := self.iceberg.snapshot_by_name(name)):
            known = ", ".join(v.name for v in self.versions())
            raise LookupError(f"expected a version of table {self.name}, found {name!r}; there are: {known}")
        if name == "main":
            tags = [n for n, ref in self.iceberg.refs().items() if ref.snapshot_id == snapshot.snapshot_id]
            name = next((n for n in tags if re.fullmatch(r"v\d+", n)), "v0")
        return _version(name, snapshot)

    def versions(self) -> list[Version]:
        """All named versions, oldest first."""
        found = [self.version(name) for name in self.iceberg.refs() if name != "main"]
        order = {s.snapshot_id: (s.sequence_number or 0, s.timestamp_ms) for s in self.iceberg.metadata.snapshots}
        return sorted(found, key=lambda version: (order[version.snapshot_id], version.name))  # clocks may go backwards

    def has_ref(self, name: str) -> bool:
        return name in self.iceberg.refs()

    def parts(self, snapshot_id: int) -> dict[str, Part]:
        """The parts of a snapshot, by the name of their source shard. It never changes, and so is read once."""
        if snapshot_id not in self._parts:
            self._parts[snapshot_id] = {
                part.shard: part for part in map(iceberg.to_part, self._data_files(snapshot_id))
            }
        return dict(self._parts[snapshot_id])

    def added_parts(self, snapshot_id: int, versions: Sequence[Version]) -> Iterator[Part]:
        """The parts that versions have beside those of a snapshot.

        Each manifest is read once, and none that only carries over what others added: the cost is that of what was
        added in their time, not of all that they hold.
        """
        snapshots = [self.iceberg.snapshot_by_id(known) for known in (snapshot_id, *(v.snapshot_id for v in versions))]
        read: set[str] = set()
        for i, snapshot in enumerate(filter(None, snapshots)):
            new = {m.manifest_path: m for m in snapshot.manifests(self.iceberg.io) if m.manifest_path not in read}
            read |= new.keys()
            for manifest in new.values():
                if i and manifest.has_added_files():
                    yield from (iceberg.to_part(e.data_file) for e in manifest.fetch_manifest_entry(self.iceberg.io))

    def shards(self, snapshot_id: int) -> list[CodeShard]:
        """The parts of a snapshot to be reduced over, by rising id."""
        parts = sorted(self.parts(snapshot_id).values(), key=lambda part: (part.min_id, part.shard))
        return [CodeShard(part, self.n_bits, len(self.vocabulary)) for part in parts]

    def _data_files(self, snapshot_id: int) -> list[DataFile]:
        empty = {"include_empty_files": "true"}  # a source shard without rows is encoded by a part without rows
        return [task.file for task in self.iceberg.scan(snapshot_id=snapshot_id, options=empty).plan_files()]

    # --- write, audit, publish -------------------------------------------------------------------------------------

    def stage(self, branch: str, start: int) -> None:
        """Make a branch at a snapshot, unless an earlier run left it there: then it is adopted as it is."""

        def attempt() -> None:
            if not self.has_ref(branch):
                absent = AssertRefSnapshotId(ref=branch, snapshot_id=None)
                commit(self.iceberg, (absent,), (commits.set_branch(branch, start),))

        retry_commit(self.iceberg, attempt)

    def replace(self, branch: str, add: Sequence[Part], remove: Set[str], properties: Mapping[str, str]) -> None:
        """One commit on a branch: parts of the removed shards leave, new parts replace those of their shard.

        What another run committed in the meantime is looked at anew, and no part is ever added twice.
        """

        def attempt() -> None:
            if not self.has_ref(branch):
                raise PublishConflict(f"expected branch {branch} of table {self.name}, found that another run ended it")
            head = self.version(branch)
            present = {iceberg.to_part(file).shard: file for file in self._data_files(head.snapshot_id)}
            new = [p for p in add if p.shard not in present or present[p.shard].file_path != p.url]
            old = [present[shard] for shard in ({p.shard for p in new} | remove) & present.keys()]
            if not new and not old and properties == head.properties:
                return
            ours = {PREFIX + key: value for key, value in properties.items()}
            with (
                self.iceberg.transaction() as tx,
                tx.update_snapshot(branch=branch, snapshot_properties=ours).overwrite() as overwrite,
            ):
                for file in old:
                    overwrite.delete_data_file(file)
                for part in new:
                    overwrite.append_data_file(iceberg.to_data_file(part, self.iceberg.spec().spec_id))

        retry_commit(self.iceberg, attempt)

    def publish(self, staged: Version, base: int) -> Version:
        """Move main to a staged snapshot, tag it v<N>, drop the branch: one commit, only if main is still at base.

        Raises PublishConflict where it is not, and then nothing has changed.
        """

        def attempt() -> str:
            if (found := self.version().snapshot_id) != base:
                raise PublishConflict(
                    f"expected main of table {self.name} at snapshot {base}, where staging began, found {found}: "
                    "somebody else published; run again to plan anew"
                )
            tag = f"v{1 + max([0, *(version.number for version in self.versions())])}"
            commit(
                self.iceberg,
                (AssertRefSnapshotId(ref="main", snapshot_id=base), AssertRefSnapshotId(ref=tag, snapshot_id=None)),
                (
                    commits.set_branch("main", staged.snapshot_id),
                    commits.set_tag(tag, staged.snapshot_id),
                    RemoveSnapshotRefUpdate(ref_name=staged.name),
                ),
            )
            return tag

        return self.version(retry_commit(self.iceberg, attempt))

    def reject(self, staged: Version) -> Version:
        """Keep a staged snapshot under rejected-<run>, where no reader looks, and drop its branch."""
        tag = staged.name.replace("staged-", "rejected-")
        remove = RemoveSnapshotRefUpdate(ref_name=staged.name)
        retry_commit(self.iceberg, lambda: commit(self.iceberg, (), (commits.set_tag(tag, staged.snapshot_id), remove)))
        return self.version(tag)


def _version(name: str, snapshot: Snapshot) -> Version:
    properties = snapshot.summary.additional_properties if snapshot.summary else {}
    ours = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
    return Version(name, snapshot.snapshot_id, snapshot.timestamp_ms, ours)
