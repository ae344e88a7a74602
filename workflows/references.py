"""What stages hand on: names of what lies in storage, and what was found. Small, frozen, as JSON."""

from __future__ import annotations

from .drift import Drift
from .measure import Comparison, Curves, Measured
from .spec import Value


class Model(Value):
    """A fitted hash function in the warehouse."""

    digest: str
    fit: str  # digest of the specification it was fitted by
    seconds: float  # what fitting took; 0 where a model was used again
    reason: str = ""  # why it was fitted, or was not


class Plan(Value):
    """The source's shards beside the parts of a version: what makes them the same. Names of shards, in order."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    stale: tuple[str, ...]  # as they were, but encoded by another model
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    found: tuple[str, ...] = ()  # of the added, changed and stale ones: another version has their parts, by the model

    @property
    def missing(self) -> list[str]:
        """The shards to encode."""
        return sorted({*self.added, *self.changed, *self.stale} - {*self.found})

    @property
    def empty(self) -> bool:
        return not (self.added or self.changed or self.stale or self.removed)


class Outlook(Value):
    """What a run would do: of `reindex --dry-run`."""

    table: str
    base: str  # the published version
    plan: Plan
    rows: int  # to encode
    bytes: int  # of the shards to encode
    seconds: float | None  # to encode them, at the rate of an earlier run; None where there was none
    fit: bool  # whether a model must be fitted
    reason: str  # why, or why not


class Staged(Value):
    """A version on its branch, not yet seen by readers."""

    table: str
    branch: str
    base: str  # the published version when staging began
    base_snapshot: int
    model: Model
    source: str  # fingerprint of the source shards
    rows: int
    encoded: int  # rows that were encoded by this run
    removed: int  # parts that left: their shard has gone, or has changed, or the model has
    dropped: int = 0  # rows of the source that are no vectors, and in no part: they are in quarantine
    seconds: float
    encode_seconds: float = 0  # of these, encoding and committing
    drift: Drift | None = None  # of the rows that the published version lacks; None where nothing can be compared
    unchanged: bool = False  # nothing to do: the published version is this one
    report: str = ""  # of the published version, where it is unchanged


class Report(Value):
    """What the staged version was found to be, beside the published one."""

    protocol: str
    measured: Measured
    curves: Curves
    comparison: Comparison | None
    incomparable: str = ""  # why there is none, where a part of the published version is damaged
    health: dict[str, float]
    overlap: str  # of queries with the database and with the training set, by id and by content


class Verdict(Value):
    """The gate's word."""

    passed: bool
    reasons: tuple[str, ...]  # why not
    notes: tuple[str, ...]  # what else was looked at


class Outcome(Value):
    """What a run came to."""

    table: str
    version: str  # what readers see now
    unchanged: bool
    rows: int
    encoded: int
    report: str  # where the page lies
    seconds: float
