"""What stages hand on: names of what lies in storage, and what was found. Small, frozen, as JSON."""

from __future__ import annotations

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


class Drift(Value):
    """The bit whose projections moved farthest.

    moved is the 2-Wasserstein distance of two normal distributions with the moments of the model's rows and of the new
    ones, in deviations of the former: 0.5 is a mean that moved by half a deviation, or a deviation that halved.
    """

    rows: int  # new ones
    bit: int
    moved: float
    chance: float  # as far as so few rows may seem to have moved
    balance: float  # share of ones of that bit among the new rows
    own_balance: float  # and among the model's own
    shows: bool  # beyond chance, and beyond the limit of the specification

    def __str__(self) -> str:
        ones = f"{self.balance:.2f} of its bits are ones, {self.own_balance:.2f} were"
        return f"bit {self.bit} moved by {self.moved:.2f} deviations in {self.rows:,} new rows ({ones})"


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


class Estimate(Value):
    """A mean over queries, and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


class Measured(Value):
    """What some rows of a version were found to be."""

    rows: int
    metrics: dict[str, Estimate]


class Curves(Value):
    """Means over queries: within Hamming radius 0, 1, …, and of the first N ranks (the figures of DHN, AAAI 2016)."""

    precision: tuple[float, ...]
    recall: tuple[float, ...]
    ranks: tuple[int, ...] = ()  # each N: 1, 2, 5, 10, …
    precision_at: tuple[float, ...] = ()
    recall_at: tuple[float, ...] = ()


class Comparison(Value):
    """The staged and the published version on the rows that both have."""

    version: str
    rows: int
    staged: Measured
    published: Measured
    differences: dict[str, Estimate]  # by metric, staged - published, paired by query


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


class RunOutcome(Value):
    """What a run came to."""

    table: str
    version: str  # what readers see now
    unchanged: bool
    rows: int
    encoded: int
    report: str  # where the page lies
    verdict: Verdict  # of the gate; on an unchanged version, of this run's rules on the metrics stored with it
    seconds: float
