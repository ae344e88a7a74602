"""Code tables: versions of a dataset's codes in Iceberg. Staged on a branch, published by one move of main."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Snapshot
from pyiceberg.table.update import (
    AssertRefSnapshotId,
    AssertTableUUID,
    RemoveSnapshotRefUpdate,
    SetSnapshotRefUpdate,
    TableRequirement,
    TableUpdate,
)

from . import iceberg
from .codes import CodeShard, Part
from .iceberg import NAMESPACE, PREFIX

COMMIT_ATTEMPTS = 8


class PublishConflict(RuntimeError):
    """Main is no longer the snapshot that the staging started from: somebody else published."""


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


def names(catalog: Catalog) -> list[str]:
    """All code tables."""
    return sorted(name for _, name in catalog.list_tables(NAMESPACE))


def open_table(catalog: Catalog, name: str) -> CodeTable:
    """A code table. Raises LookupError, with the names there are, where there is none of that name."""
    try:
        return CodeTable(catalog.load_table(f"{NAMESPACE}.{name}"))
    except NoSuchTableError:
        known = ", ".join(names(catalog)) or "none yet"
        raise LookupError(f"expected the name of a code table, found {name!r}; there are: {known}") from None


def create_table(catalog: Catalog, name: str, n_bits: int) -> CodeTable:
    """The code table of a name, made with an empty version 0 if need be. ValueError if it has another width."""
    layout, spec, properties = iceberg.layout(n_bits)
    try:
        table = CodeTable(catalog.create_table(f"{NAMESPACE}.{name}", layout, None, spec, properties=properties))
    except TableAlreadyExistsError:
        table = open_table(catalog, name)
    if table.n_bits != n_bits:
        raise ValueError(f"expected {table.n_bits} bits, as table {name} has, found {n_bits}: use another --code")
    table.begin()
    return table


class CodeTable:
    """One table. Every method that reads sees the catalog as it was at the last `refresh` or commit."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self.name = table.name()[-1]
        self.n_bits = int(table.properties[PREFIX + "n_bits"])

    @property
    def data_folder(self) -> str:
        return f"{self._table.location().removeprefix('file://')}/data"

    @property
    def vocabulary(self) -> tuple[str | int, ...]:
        return tuple(json.loads(self._table.properties.get(PREFIX + "vocabulary", "[]")))

    def refresh(self) -> CodeTable:
        self._table.refresh()
        return self

    def begin(self) -> None:
        """Make version 0, an empty snapshot on main, if there is no snapshot yet."""
        for _ in range(COMMIT_ATTEMPTS):
            if self._table.current_snapshot():
                return
            try:
                with self._table.transaction() as tx, tx.update_snapshot().fast_append():
                    pass
            except CommitFailedException:
                self.refresh()
        raise PublishConflict(f"expected to begin table {self.name}, found other writers each time")

    def add_labels(self, labels: Sequence[str | int]) -> tuple[str | int, ...]:
        """The vocabulary with new labels at its end. Places given once never change."""
        for _ in range(COMMIT_ATTEMPTS):
            vocabulary = self.vocabulary
            known = set(vocabulary)
            if not (new := [label for label in labels if label not in known]):
                return vocabulary
            content = json.dumps([*vocabulary, *new])
            try:
                with self._table.transaction() as tx:
                    tx.set_properties({PREFIX + "vocabulary": content})
            except CommitFailedException:
                self.refresh()
        raise PublishConflict(f"expected to add labels to table {self.name}, found other writers each time")

    # --- what there is ---------------------------------------------------------------------------------------------

    def version(self, name: str = "main") -> Version:
        """The version of a name, or the published one. Raises LookupError, with the names there are."""
        if not (snapshot := self._table.snapshot_by_name(name)):
            known = ", ".join(v.name for v in self.versions())
            raise LookupError(f"expected a version of table {self.name}, found {name!r}; there are: {known}")
        tags = [n for n, ref in self._table.refs().items() if ref.snapshot_id == snapshot.snapshot_id and n != "main"]
        return _version(max(tags, default="v0") if name == "main" else name, snapshot)

    def versions(self) -> list[Version]:
        """All named versions, oldest first."""
        found = [self.version(name) for name in self._table.refs() if name != "main"]
        return sorted(found, key=lambda version: (version.timestamp_ms, version.name))

    def has(self, name: str) -> bool:
        return name in self._table.refs()

    def parts(self, snapshot_id: int) -> dict[str, Part]:
        """The parts of a snapshot, by the name of their source shard."""
        return {part.shard: part for part in map(iceberg.part, self._data_files(snapshot_id))}

    def shards(self, snapshot_id: int) -> list[CodeShard]:
        """The parts of a snapshot to be reduced over, by rising id."""
        parts = sorted(self.parts(snapshot_id).values(), key=lambda part: (part.min_id, part.shard))
        return [CodeShard(part, self.n_bits, len(self.vocabulary)) for part in parts]

    def _data_files(self, snapshot_id: int) -> list[DataFile]:
        return [task.file for task in self._table.scan(snapshot_id=snapshot_id).plan_files()]

    # --- write, audit, publish -------------------------------------------------------------------------------------

    def stage(self, branch: str, start: int) -> None:
        """Make a branch at a snapshot, unless an earlier run left it there: then it is adopted as it is."""
        for _ in range(COMMIT_ATTEMPTS):
            if self.has(branch):
                return
            try:
                self._table.manage_snapshots().create_branch(start, branch).commit()
            except CommitFailedException:
                self.refresh()
        raise PublishConflict(f"expected to make branch {branch} of table {self.name}, found other writers each time")

    def replace(self, branch: str, add: Sequence[Part], remove: set[str], properties: Mapping[str, str]) -> None:
        """One commit on a branch: parts of the removed shards leave, new parts replace those of their shard.

        What another run committed in the meantime is looked at anew, and no part is ever added twice.
        """
        for _ in range(COMMIT_ATTEMPTS):
            present = {iceberg.part(file).shard: file for file in self._data_files(self.version(branch).snapshot_id)}
            new = [p for p in add if p.shard not in present or present[p.shard].file_path != p.url]
            old = [present[shard] for shard in ({p.shard for p in new} | remove) & present.keys()]
            if not new and not old and properties.items() <= self.version(branch).properties.items():
                return
            ours = {PREFIX + key: value for key, value in properties.items()}
            try:
                with (
                    self._table.transaction() as tx,
                    tx.update_snapshot(branch=branch, snapshot_properties=ours).overwrite() as overwrite,
                ):
                    for file in old:
                        overwrite.delete_data_file(file)
                    for part in new:
                        overwrite.append_data_file(iceberg.data_file(part, self._table.spec().spec_id))
                return
            except CommitFailedException:
                self.refresh()
        raise PublishConflict(f"expected to commit to {branch} of table {self.name}, found other writers each time")

    def publish(self, staged: Version, base: int) -> Version:
        """Move main to a staged snapshot, tag it v<N>, drop the branch: one commit, only if main is still at base.

        Raises PublishConflict where it is not, and then nothing has changed.
        """
        number = 1 + max((version.number for version in self.versions()), default=0)
        tag = f"v{max(number, 1)}"
        self._commit(
            (
                AssertRefSnapshotId(ref="main", snapshot_id=base),
                AssertRefSnapshotId(ref=tag, snapshot_id=None),
            ),
            (
                _reference("main", SnapshotRefType.BRANCH, staged.snapshot_id),
                _reference(tag, SnapshotRefType.TAG, staged.snapshot_id),
                RemoveSnapshotRefUpdate(ref_name=staged.name),
            ),
        )
        return self.version(tag)

    def reject(self, staged: Version) -> Version:
        """Keep a staged snapshot under rejected-<run>, where no reader looks, and drop its branch."""
        tag = staged.name.replace("staged-", "rejected-")
        remove = RemoveSnapshotRefUpdate(ref_name=staged.name)
        self._commit((), (_reference(tag, SnapshotRefType.TAG, staged.snapshot_id), remove))
        return self.version(tag)

    def _commit(self, requirements: tuple[TableRequirement, ...], updates: tuple[TableUpdate, ...]) -> None:
        for _ in range(COMMIT_ATTEMPTS):
            self.refresh()
            for requirement in requirements:
                try:
                    requirement.validate(self._table.metadata)
                except CommitFailedException as error:
                    raise PublishConflict(f"table {self.name}: {error}; run again to plan anew") from None
            try:
                same = AssertTableUUID(uuid=self._table.metadata.table_uuid)
                self._table.catalog.commit_table(self._table, (same, *requirements), updates)
                self.refresh()
                return
            except CommitFailedException:
                continue  # some other branch moved; what we require is looked at again
        raise PublishConflict(f"expected to commit to table {self.name}, found other writers each time")


def _reference(name: str, kind: SnapshotRefType, snapshot_id: int) -> TableUpdate:
    forever = {"max_ref_age_ms": None, "max_snapshot_age_ms": None, "min_snapshots_to_keep": None}
    return SetSnapshotRefUpdate(ref_name=name, type=kind, snapshot_id=snapshot_id, **forever)


def _version(name: str, snapshot: Snapshot) -> Version:
    properties = snapshot.summary.additional_properties if snapshot.summary else {}
    ours = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
    return Version(name, snapshot.snapshot_id, snapshot.timestamp_ms, ours)
