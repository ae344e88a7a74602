"""What stages hand on: names of what lies in storage, and what was found. Small, frozen, as JSON."""

from __future__ import annotations

from .measure import Comparison, Curves, Measured
from .spec import Value


class Model(Value):
    """A fitted hash function in the warehouse."""

    digest: str
    fit: str  # digest of the specification it was fitted by
    seconds: float  # what fitting took; 0 where a model was used again


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
    seconds: float
    unchanged: bool = False  # nothing to do: the published version is this one
    report: str = ""  # of the published version, where it is unchanged


class Report(Value):
    """What the staged version was found to be, beside the published one."""

    protocol: str
    measured: Measured
    curves: Curves
    comparison: Comparison | None
    health: dict[str, float]
    overlap: str  # of queries with the database and with the training set, by id and by content


class Verdict(Value):
    """The gate's word."""

    passed: bool
    reasons: tuple[str, ...]  # why not
    notes: tuple[str, ...]  # what else was looked at
