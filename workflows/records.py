"""Records that stages exchange: names of stored objects, and results. Small, frozen, serializable as JSON."""

from typing import Literal

from pydantic import Field

from .spec import Value


class Model(Value):
    """A fitted hash function in the warehouse."""

    digest: str
    fit: str  # digest of the specification of the fit
    seconds: float  # duration of the fit; 0 for a reused model
    rows: int = 0  # that it was fitted on; 0 for a reused model
    reason: str = ""  # why it was fitted or reused
    remark: str = ""  # what a reused model does otherwise than a new one


class Plan(Value):
    """The difference between the shards of a source and the parts of a version, as ordered shard names."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    stale: tuple[str, ...]  # unchanged, but encoded by another model
    removed: tuple[str, ...]
    kept: tuple[str, ...]
    found: tuple[str, ...] = ()  # added, changed or stale, but encoded by this model in another version

    @property
    def missing(self) -> list[str]:
        """The shards to encode."""
        return sorted({*self.added, *self.changed, *self.stale} - {*self.found})

    @property
    def empty(self) -> bool:
        return not (self.added or self.changed or self.stale or self.removed)


class Forecast(Value):
    """The work that a run would do, as `reindex --dry-run` shows it."""

    table: str
    base: str  # the published version
    plan: Plan
    rows: int  # to encode
    bytes: int  # of the shards to encode
    seconds: float | None  # to encode them, at the rate of an earlier run; None without an earlier run
    fit: bool  # whether a model must be fitted
    reason: str  # why a fit is needed or not


class Drift(Value):
    """The bit whose projections have moved most since training.

    `moved` is the 2-Wasserstein distance between two normal distributions with the moments of the training rows and of
    the new rows, in standard deviations of the training rows. 0.5 means that the mean moved by half a standard
    deviation, or that the standard deviation halved.
    """

    rows: int  # number of new rows
    bit: int
    moved: float
    chance: float  # largest movement that chance explains for this number of rows
    balance: float  # share of ones of that bit among the new rows
    own_balance: float  # the same among the training rows
    shows: bool  # whether `moved` exceeds the drift threshold plus `chance`

    def __str__(self) -> str:
        ones = f"share of ones {self.balance:.2f}, in training {self.own_balance:.2f}"
        return f"bit {self.bit} moved by {self.moved:.2f} standard deviations in {self.rows:,} new rows ({ones})"


class Staged(Value):
    """A version on its branch, not yet visible to readers."""

    table: str
    branch: str
    base: str  # the version published when staging began
    base_snapshot: int
    model: Model
    source: str  # fingerprint of the source shards
    rows: int
    encoded: int  # rows encoded by this run
    removed: int  # parts removed because their shard was removed or changed, or the model changed
    dropped: int = 0  # invalid rows of the source: in quarantine, not in any part
    seconds: float
    encode_seconds: float = 0  # part of `seconds`: encoding and committing
    drift: Drift | None = None  # of the rows new since the published version; None if there is nothing to compare
    unchanged: bool = False  # the published version is up to date: nothing was staged


class Estimate(Value):
    """A mean over queries with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


class Measured(Value):
    """The metrics of a version over some of its rows."""

    rows: int
    metrics: dict[str, Estimate]


class Curves(Value):
    """Means over queries within Hamming radius 0, 1, … and at the first N ranks (the figures of DHN, AAAI 2016)."""

    precision: tuple[float, ...]  # 0 for a query that finds no row
    recall: tuple[float, ...]
    ranks: tuple[int, ...] = ()  # each N: 1, 2, 5, 10, …
    precision_at: tuple[float, ...] = ()
    recall_at: tuple[float, ...] = ()
    found_precision: tuple[float | None, ...] = ()  # over the queries that find a row; None if no query does
    found: tuple[float, ...] = ()  # share of these queries
    pairs: tuple[int, ...] = ()  # of a query and a row, at distance 0, 1, …
    relevant_pairs: tuple[int, ...] = ()


class Bits(Value):
    """How the codes use their bits."""

    balance: tuple[float, ...]  # share of ones of each bit
    # Pearson correlation of two bits; with more than 64 bits, the largest by magnitude in each of 64 x 64 tiles
    correlation: tuple[tuple[float, ...], ...] = Field((), exclude=True)


class Neighbour(Value):
    """A row near a query."""

    id: int
    distance: int  # Hamming distance
    relevant: bool
    labels: tuple[str, ...] = ()


class Example(Value):
    """A query and the rows nearest to it, in order of (distance, id)."""

    kind: Literal["best", "median", "worst"]
    id: int
    precision: float  # average precision
    labels: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...]


class Comparison(Value):
    """The staged and the published version on their common rows."""

    version: str
    rows: int
    staged: Measured
    published: Measured
    differences: dict[str, Estimate]  # by metric, staged - published, paired by query


class Report(Value):
    """The evaluation of a version or of codes, and its comparison with the published version, if there is one.

    Examples
    --------
    >>> import numpy as np
    >>> import hashkiln
    >>> y = np.arange(60) % 3
    >>> report = hashkiln.evaluate(np.eye(3, dtype=bool)[y], labels=y)  # equal codes for equal labels
    >>> report.measured.metrics["map"].value, str(report.measured.metrics["map"])
    (1.0, '1.0000 [1.0000, 1.0000]')
    >>> report.curves.recall[0], report.health["constant bits"]
    (1.0, 0.0)
    """

    protocol: str
    measured: Measured
    curves: Curves = Field(repr=False)
    comparison: Comparison | None
    incomparable: str = ""  # why the comparison is missing: a damaged part of the published version
    health: dict[str, float]
    bits: Bits | None = Field(None, repr=False)
    overlap: str  # rows of the database and of the training set that equal a query, by id and by content


class Verdict(Value):
    """The verdict of the gate."""

    passed: bool
    reasons: tuple[str, ...]  # failed checks
    notes: tuple[str, ...]  # other findings


class RunOutcome(Value):
    """The outcome of a run of `reindex`.

    Examples
    --------
    >>> import hashkiln
    >>> outcome = hashkiln.reindex("sample", method="lsh", bits=8)
    >>> again = hashkiln.reindex("sample", method="lsh", bits=8)
    >>> again.version == outcome.version, again.unchanged, again.encoded, again.verdict.passed
    (True, True, 0, True)
    """

    table: str
    version: str  # the version that readers see now
    unchanged: bool
    rows: int
    encoded: int
    report: str  # path or URL of the report page
    verdict: Verdict  # of the gate; for an unchanged version, on its stored metrics
    seconds: float
    exported: tuple[str, ...] = ()  # folders that were written; one that already held the version was left as it is
