"""Code tables: versions of a dataset's codes in Iceberg. Staged on a branch, published by one move of main."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple, TypeVar

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
    SetPropertiesUpdate,
    SetSnapshotRefUpdate,
    TableUpdate,
)

from . import iceberg
from .codes import CodeShard, Part
from .iceberg import NAMESPACE, PREFIX

VOCABULARY = PREFIX + "vocabulary"
COMMIT_ATTEMPTS = 8
FOREVER: dict[str, None] = {"max_ref_age_ms": None, "max_snapshot_age_ms": None, "min_snapshots_to_keep": None}
T = TypeVar("T")


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
        return tuple(json.loads(self._table.properties.get(VOCABULARY, "[]")))

    def refresh(self) -> CodeTable:
        self._table.refresh()
        return self

    def begin(self) -> None:
        """Make version 0, an empty snapshot on main, if there is no snapshot yet."""

        def attempt() -> None:
            if not self._table.current_snapshot():
                with self._table.transaction() as tx, tx.update_snapshot().fast_append():
                    pass

        self._committing(attempt)

    def add_labels(self, labels: Sequence[str | int]) -> tuple[str | int, ...]:
        """The vocabulary with new labels at its end. Places given once never change."""

        def attempt() -> None:
            known = set(self.vocabulary)
            if new := [label for label in labels if label not in known]:
                content = json.dumps([*self.vocabulary, *new])
                unchanged = iceberg.AssertProperty(key=VOCABULARY, value=self._table.properties.get(VOCABULARY))
                self._commit((unchanged,), (SetPropertiesUpdate(updates={VOCABULARY: content}),))

        self._committing(attempt)
        return self.vocabulary

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

        def attempt() -> None:
            if not self.has(branch):
                self._commit((AssertRefSnapshotId(ref=branch, snapshot_id=None),), (_branch(branch, start),))

        self._committing(attempt)

    def replace(self, branch: str, add: Sequence[Part], remove: Set[str], properties: Mapping[str, str]) -> None:
        """One commit on a branch: parts of the removed shards leave, new parts replace those of their shard.

        What another run committed in the meantime is looked at anew, and no part is ever added twice.
        """

        def attempt() -> None:
            if not self.has(branch):
                raise PublishConflict(f"expected branch {branch} of table {self.name}, found that another run ended it")
            head = self.version(branch)
            present = {iceberg.part(file).shard: file for file in self._data_files(head.snapshot_id)}
            new = [p for p in add if p.shard not in present or present[p.shard].file_path != p.url]
            old = [present[shard] for shard in ({p.shard for p in new} | remove) & present.keys()]
            if not new and not old and properties == head.properties:
                return
            ours = {PREFIX + key: value for key, value in properties.items()}
            with (
                self._table.transaction() as tx,
                tx.update_snapshot(branch=branch, snapshot_properties=ours).overwrite() as overwrite,
            ):
                for file in old:
                    overwrite.delete_data_file(file)
                for part in new:
                    overwrite.append_data_file(iceberg.data_file(part, self._table.spec().spec_id))

        self._committing(attempt)

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
            self._commit(
                (AssertRefSnapshotId(ref="main", snapshot_id=base), AssertRefSnapshotId(ref=tag, snapshot_id=None)),
                (
                    _branch("main", staged.snapshot_id),
                    _tag(tag, staged.snapshot_id),
                    RemoveSnapshotRefUpdate(ref_name=staged.name),
                ),
            )
            return tag

        return self.version(self._committing(attempt))

    def reject(self, staged: Version) -> Version:
        """Keep a staged snapshot under rejected-<run>, where no reader looks, and drop its branch."""
        tag = staged.name.replace("staged-", "rejected-")
        remove = RemoveSnapshotRefUpdate(ref_name=staged.name)
        self._committing(lambda: self._commit((), (_tag(tag, staged.snapshot_id), remove)))
        return self.version(tag)

    def _commit(self, requirements: tuple[Any, ...], updates: tuple[TableUpdate, ...]) -> None:
        """One catalog commit, made only if the requirements hold of the table as it then is."""
        same = AssertTableUUID(uuid=self._table.metadata.table_uuid)
        self._table.catalog.commit_table(self._table, (same, *requirements), updates)
        self.refresh()

    def _committing(self, attempt: Callable[[], T]) -> T:
        """What an attempt gives. It looks at the table anew, and is made again where another writer came first."""
        for number in range(COMMIT_ATTEMPTS):
            self.refresh()
            try:
                return attempt()
            except CommitFailedException:
                pass
            except ValueError as error:  # another branch took the sequence number
                if "sequence number" not in str(error):
                    raise
            time.sleep(random.uniform(0, 0.05 * 2**number))  # noqa: S311  (it only spreads the writers)
        raise PublishConflict(f"expected to commit to table {self.name}, found other writers {COMMIT_ATTEMPTS} times")


def _branch(name: str, snapshot_id: int) -> TableUpdate:
    return SetSnapshotRefUpdate(ref_name=name, type=SnapshotRefType.BRANCH, snapshot_id=snapshot_id, **FOREVER)


def _tag(name: str, snapshot_id: int) -> TableUpdate:
    return SetSnapshotRefUpdate(ref_name=name, type=SnapshotRefType.TAG, snapshot_id=snapshot_id, **FOREVER)


def _version(name: str, snapshot: Snapshot) -> Version:
    properties = snapshot.summary.additional_properties if snapshot.summary else {}
    ours = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
    return Version(name, snapshot.snapshot_id, snapshot.timestamp_ms, ours)
