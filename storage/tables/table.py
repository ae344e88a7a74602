"""Code tables: versions of a dataset's codes in Iceberg, staged on a branch and published by moving main."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from typing import NamedTuple

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import CommitFailedException, NoSuchTableError, TableAlreadyExistsError
from pyiceberg.table import CreateTableTransaction, Table
from pyiceberg.table.snapshots import Operation, Snapshot
from pyiceberg.table.update import AssertRefSnapshotId, RemoveSnapshotRefUpdate

from hashing.names import hint, spelled
from hashing.quantizers.estimator import FLOAT32

from . import commits, iceberg
from .commits import PublishConflict, change_properties, commit, retry_commit
from .iceberg import NAMESPACE, PREFIX, WITH_CORRECTIVES
from .manifests import listed_parts
from .parts import CodeShard, Part
from .replacement import Replacement

VOCABULARY = PREFIX + "vocabulary"


class Version(NamedTuple):
    """A named snapshot: v1, v2, … when published, staged-… and rejected-… otherwise; v0 is the empty table."""

    name: str
    snapshot_id: int
    timestamp_ms: int
    properties: dict[str, str]  # the properties of hashkiln, without the prefix

    @property
    def number(self) -> int:
        """Return N for a published version vN; -1 otherwise."""
        return int(self.name[1:]) if re.fullmatch(r"v\d+", self.name) else -1


def table_name(dataset: str, code: str) -> str:
    """Return `<dataset>__<code>`, with underscores for hyphens. Raises ValueError for other characters.

    >>> table_name("fashion-mnist", "itq64")
    'fashion_mnist__itq64'
    """
    name = f"{dataset}__{code}".replace("-", "_")
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise ValueError(f"expected names of a-z, 0-9, _ and -, found dataset {dataset!r} and code {code!r}")
    return name


def table_names(catalog: Catalog) -> list[str]:
    """Return the names of all code tables, sorted."""
    return sorted(name for _, name in catalog.list_tables(NAMESPACE))


class OtherCodes(ValueError):
    """A table has codes of another length, or other correctives."""


def load_table(
    catalog: Catalog, name: str, n_bits: int | None = None, correctives: Sequence[str] | None = None
) -> CodeTable:
    """Return a code table by name.

    Raises
    ------
    LookupError
        If there is no such table. The message lists the existing ones.
    ValueError
        If `n_bits` or `correctives` are given, and the codes have another length or other correctives. A table of
        hashkiln 0.2 may have those in float32.
    """
    try:
        table = CodeTable(catalog.load_table(f"{NAMESPACE}.{name}"))
    except NoSuchTableError:
        existing = table_names(catalog)
        if not (known := spelled(name, existing)) or known == name:
            raise unknown_table(name, existing) from None
        return load_table(catalog, known, n_bits, correctives)
    if n_bits not in (None, table.n_bits):
        raise OtherCodes(f"table {name} has codes of {table.n_bits} bits, not {n_bits}: choose another --code")
    names = tuple(correctives or ())
    if correctives is not None and table.correctives not in (names, FLOAT32.get(names)):
        found, asked = (", ".join(columns) or "no correctives" for columns in (table.correctives, names))
        raise OtherCodes(f"table {name} has the columns {found}, not {asked}: choose another --code")
    return table


def unknown_table(name: str, existing: Sequence[str]) -> LookupError:
    """Return the error for a code table that does not exist."""
    return LookupError(f"unknown code table {name!r}; {hint(name, existing, 'existing tables:')}")


def create_table(
    catalog: Catalog, name: str, n_bits: int, location: str | None = None, correctives: Sequence[str] = ()
) -> CodeTable:
    """Return a code table by name, created with an empty version 0 if it is missing.

    The catalog chooses the folder of a new table unless `location` does. `correctives` are the names of the columns
    beside the code, see `corrective_type`. Raises ValueError if the table has codes of another length, or other
    correctives.
    """
    if name not in table_names(catalog):
        with suppress(TableAlreadyExistsError, CommitFailedException):
            new = _new_table(catalog, name, n_bits, correctives, location)
            with new, new.update_snapshot().fast_append():
                pass  # create table and version 0 in one commit, so that a crash leaves both or neither
    table = load_table(catalog, name, n_bits, correctives)
    table.upgrade(iceberg.table_layout(n_bits, table.correctives)[2])
    return table


def future_folder(catalog: Catalog, name: str, n_bits: int, correctives: Sequence[str] = ()) -> str:
    """Return the folder of a table, or the one that it will have when it is created, without creating it."""
    try:
        return _new_table(catalog, name, n_bits, correctives).table_metadata.location.removeprefix("file://")
    except TableAlreadyExistsError:  # of a REST catalog, if another run has created it meanwhile
        return load_table(catalog, name, n_bits, correctives).folder


def _new_table(
    catalog: Catalog, name: str, n_bits: int, correctives: Sequence[str], location: str | None = None
) -> CreateTableTransaction:
    layout, spec, properties = iceberg.table_layout(n_bits, correctives)
    return catalog.create_table_transaction(f"{NAMESPACE}.{name}", layout, location, spec, properties=properties)


class CodeTable:
    """A code table, in the state of the catalog at the last `refresh` or commit.

    Raises
    ------
    ValueError
        If a newer version of hashkiln wrote the table in a format that this version does not know.

    Examples
    --------
    >>> import tempfile
    >>> from storage.tables.iceberg import open_catalog
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     catalog = open_catalog(f"sqlite:///{folder}/catalog.db", folder)
    ...     table = create_table(catalog, "mine__itq32", n_bits=32)
    ...     table.version().name, table.shards(table.version().snapshot_id)
    ('v0', [])
    """

    def __init__(self, table: Table) -> None:
        self.iceberg = table
        self.name = table.name()[-1]
        self.n_bits = int(table.properties[PREFIX + "n_bits"])
        if self.format > WITH_CORRECTIVES:
            newest = WITH_CORRECTIVES
            raise ValueError(
                f"table {self.name} has format {self.format}, newer than {newest}: upgrade hashkiln to open it"
            )

    @property
    def format(self) -> int:
        """Return the version of the table format; 0 if the table was written before formats had versions."""
        return int(self.iceberg.properties.get(PREFIX + "format", 0))

    @property
    def correctives(self) -> tuple[str, ...]:
        """Return the names of the columns beside the code, from which distances are estimated."""
        return tuple(json.loads(self.iceberg.properties.get(PREFIX + "correctives", "[]")))

    @property
    def folder(self) -> str:
        """Return the URL of the folder of parts, quarantine and metadata."""
        return self.iceberg.location().removeprefix("file://")

    @property
    def vocabulary(self) -> tuple[str | int, ...]:
        """Return the labels, by their index in the labels of the codes."""
        return tuple(json.loads(self.iceberg.properties.get(VOCABULARY, "[]")))

    def refresh(self) -> CodeTable:
        """Read the current state from the catalog, and return the table."""
        self.iceberg.refresh()
        return self

    def upgrade(self, properties: Mapping[str, str]) -> None:
        """Add the missing properties to a table of an older format, in one commit."""

        def attempt() -> None:
            key, current = PREFIX + "format", self.iceberg.properties
            if self.format < int(properties[key]):
                missing = {name: value for name, value in properties.items() if name == key or name not in current}
                commit(self.iceberg, *change_properties(self.iceberg, missing))

        retry_commit(self.iceberg, attempt)

    def add_labels(self, labels: Sequence[str | int]) -> tuple[str | int, ...]:
        """Append new labels to the vocabulary, and return it. The index of a label never changes."""

        def attempt() -> None:
            existing = set(self.vocabulary)
            if new := [label for label in labels if label not in existing]:
                content = json.dumps([*self.vocabulary, *new])
                commit(self.iceberg, *change_properties(self.iceberg, {VOCABULARY: content}))

        retry_commit(self.iceberg, attempt)
        return self.vocabulary

    # --- read ---------------------------------------------------------------------------------------------

    def version(self, name: str = "main") -> Version:
        """Return a version by name, by default the published one. Raises LookupError, with the existing names."""
        if not (snapshot := self.iceberg.snapshot_by_name(name)):
            if known := spelled(name, list(self.iceberg.refs())):
                return self.version(known)
            existing = [version.name for version in self.versions()]
            meant = hint(name, existing if name == "main" else ["main", *existing], "existing versions:")
            raise LookupError(f"unknown version {name!r} of table {self.name}; {meant}")
        if name == "main":
            tags = [n for n, ref in self.iceberg.refs().items() if ref.snapshot_id == snapshot.snapshot_id]
            name = next((n for n in tags if re.fullmatch(r"v\d+", n)), "v0")
        return _version(name, snapshot)

    def versions(self) -> list[Version]:
        """Return all named versions, oldest first."""
        versions = [self.version(name) for name in self.iceberg.refs() if name != "main"]
        order = {s.snapshot_id: (s.sequence_number or 0, s.timestamp_ms) for s in self.iceberg.metadata.snapshots}
        return sorted(versions, key=lambda version: (order[version.snapshot_id], version.name))  # clocks can go back

    def has_ref(self, name: str) -> bool:
        """Return whether the table has a version or branch of that name."""
        return name in self.iceberg.refs()

    def parts(self, snapshot_id: int) -> dict[str, Part]:
        """Return the parts of a snapshot, those without rows included, by the name of their source shard."""
        if not (snapshot := self.iceberg.snapshot_by_id(snapshot_id)):
            raise ValueError(f"table {self.name} has no snapshot {snapshot_id}")
        return {part.shard: part for part in listed_parts(snapshot.manifests(self.iceberg.io), self.iceberg.io)}

    def added_parts(self, snapshot_id: int, versions: Sequence[Version]) -> Iterator[Part]:
        """Yield the parts that versions have in addition to those of a snapshot. A part may be yielded more than once.

        Each manifest is read at most once, and only if it adds files, or if it keeps files of a commit whose own
        manifest is in none of these versions (`gc` dropped the version that had it, or the same run removed one of its
        parts). The cost is therefore proportional to the added parts, not to all parts of the versions.
        """
        snapshots = [self.iceberg.snapshot_by_id(s) for s in (snapshot_id, *(v.snapshot_id for v in versions))]
        read: set[str] = set()
        whole: set[int] = set()  # sequence numbers of the commits whose own manifests were seen
        for i, snapshot in enumerate(filter(None, snapshots)):
            new = [m for m in snapshot.manifests(self.iceberg.io) if m.manifest_path not in read]
            read |= {manifest.manifest_path for manifest in new}
            whole |= {m.min_sequence_number for m in new if m.has_added_files() and not m.has_existing_files()}
            for manifest in new if i else []:
                kept_only = manifest.has_existing_files() and manifest.min_sequence_number not in whole
                if manifest.has_added_files() or kept_only:
                    yield from listed_parts([manifest], self.iceberg.io)

    def shards(self, snapshot_id: int) -> list[CodeShard]:
        """Return the parts of a snapshot as shards of codes, without correctives, by ascending id."""
        parts = sorted(self.parts(snapshot_id).values(), key=lambda part: (part.min_id, part.shard))
        return [CodeShard(part, self.n_bits, range(len(self.vocabulary))) for part in parts]

    # --- write, audit, publish -------------------------------------------------------------------------------------

    def stage(self, branch: str, start: int) -> None:
        """Create a branch at a snapshot, or adopt the one that an earlier run left.

        Raises PublishConflict if no version has the snapshot any more.
        """

        def attempt() -> None:
            if not self.has_ref(branch):
                absent = AssertRefSnapshotId(ref=branch, snapshot_id=None)
                commit(self.iceberg, (absent, self._named(start)), (commits.set_branch(branch, start),))

        retry_commit(self.iceberg, attempt)

    def replace(self, branch: str, add: Sequence[Part], remove: Set[str], properties: Mapping[str, str]) -> None:
        """Commit to a branch: remove the parts of some shards, and add parts, or replace those of the same shard.

        Parts that another run has committed in the meantime are not added twice; shards to remove that have no part are
        ignored. `properties` are those of the new version, without the prefix. Raises PublishConflict if the branch no
        longer exists.
        """

        def attempt() -> None:
            if not self.has_ref(branch):
                raise PublishConflict(f"branch {branch} of table {self.name} is gone: another run ended it")
            head = self.version(branch)
            present, spec_id = self.parts(head.snapshot_id), self.iceberg.spec().spec_id
            new = [p for p in add if p.shard not in present or present[p.shard].url != p.url]
            old = [present[shard] for shard in ({p.shard for p in new} | remove) & present.keys()]
            if not new and not old and properties == head.properties:
                return
            prefixed = {PREFIX + key: value for key, value in properties.items()}
            with (
                self.iceberg.transaction() as tx,
                Replacement(Operation.OVERWRITE, tx, self.iceberg.io, None, prefixed, branch) as replacement,
            ):
                for part in old:
                    replacement.delete_data_file(iceberg.to_data_file(part, spec_id))
                for part in new:
                    replacement.append_data_file(iceberg.to_data_file(part, spec_id))

        retry_commit(self.iceberg, attempt)

    def next_name(self) -> str:
        """Return the name of the next version to be published, v<N>."""
        return f"v{1 + max([0, *(version.number for version in self.versions())])}"

    def publish(self, staged: Version, base: int, check: Callable[[], None] = lambda: None) -> Version:
        """Move main to a staged snapshot, tag it v<N> and drop its branch, in one commit. Return the version.

        `check` may raise an error to refuse this. It is called again if the properties of the table change before the
        commit, as they do when rows of any version are deleted (`log.schedule_purge`).

        Raises
        ------
        PublishConflict
            If main is no longer at the snapshot `base`. Nothing is changed then.
        """

        def attempt() -> str:
            check()
            if (current := self.version().snapshot_id) != base:
                raise PublishConflict(
                    f"expected main of table {self.name} at snapshot {base}, where staging began, found {current}: "
                    "another run published or rolled back; run again"
                )
            tag = self.next_name()
            main, absent = (AssertRefSnapshotId(ref=ref, snapshot_id=at) for ref, at in (("main", base), (tag, None)))
            commit(
                self.iceberg,
                (main, absent, self._named(staged.snapshot_id, staged.name), commits.same_properties(self.iceberg)),
                (
                    commits.set_branch("main", staged.snapshot_id),
                    commits.set_tag(tag, staged.snapshot_id),
                    RemoveSnapshotRefUpdate(ref_name=staged.name),
                ),
            )
            return tag

        return self.version(retry_commit(self.iceberg, attempt))

    def reject(self, staged: Version) -> Version:
        """Tag a staged snapshot rejected-<run>, which readers ignore, and drop its branch. Return the version."""
        tag = rejected_name(staged.name)
        remove = RemoveSnapshotRefUpdate(ref_name=staged.name)

        def attempt() -> None:
            same = self._named(staged.snapshot_id, staged.name)
            commit(self.iceberg, (same,), (commits.set_tag(tag, staged.snapshot_id), remove))

        retry_commit(self.iceberg, attempt)
        return self.version(tag)

    def _named(self, snapshot_id: int, name: str = "") -> AssertRefSnapshotId:
        """The requirement that a snapshot keeps a name that it has.

        Every commit that names a snapshot requires this, so none can name one that `gc` removes at the same time.
        """
        names = [ref for ref, at in self.iceberg.refs().items() if at.snapshot_id == snapshot_id]
        if not names or name not in ["", *names]:
            raise PublishConflict(
                f"{name or f'snapshot {snapshot_id}'} of table {self.name} is gone or has changed: another run came "
                "first; run again"
            )
        return AssertRefSnapshotId(ref=name or names[0], snapshot_id=snapshot_id)


def rejected_name(branch: str) -> str:
    """Return the name of a staged version once it is rejected."""
    return branch.replace("staged-", "rejected-")


def _version(name: str, snapshot: Snapshot) -> Version:
    properties = snapshot.summary.additional_properties if snapshot.summary else {}
    own = {key.removeprefix(PREFIX): value for key, value in properties.items() if key.startswith(PREFIX)}
    return Version(name, snapshot.snapshot_id, snapshot.timestamp_ms, own)
