"""How good codes are: queries, what is relevant to them, histograms over the parts of versions, and their metrics."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from hashing import evaluation
from hashing.bits import pack
from hashing.functions import HashFunction
from hashing.hamming import pack_labels
from hashing.mapreduce import Array, Batch, Data, Executor, Shard, Statistic
from hashing.neighbours import ENTRY, NearestNeighbours
from hashing.search import STATE
from hashing.statistics import Sample
from storage import queries as storage_queries
from storage.codes import CodeShard, Common, Part
from storage.features import Dataset
from storage.tables import CodeTable, Version

from .spec import Protocol, Spec, Value, digest

_NO_ROW = np.iinfo(np.int64).min


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
    map_difference: Estimate  # staged - published, paired by query


@dataclass(frozen=True)
class Judge:
    """Queries, and what is relevant to each: rows that share a label, or the listed neighbours."""

    queries: Batch
    drawn: bool  # from the database: then a query's own row is not ranked
    neighbours: Array | None  # (q, k) int64 ids; None: labels
    protocol: str
    graded: bool = False  # by how many labels are shared
    _sorted: dict[tuple[int, int], evaluation.Listed] = field(default_factory=dict, repr=False)

    @property
    def own_rows(self) -> Array:
        """The id of each query's own row in the database; one that no row has where the queries are no rows of it."""
        return self.queries.ids if self.drawn else _NO_ROW + np.arange(len(self.queries.ids))

    def histogram(self, function: HashFunction, shards: list[Shard], executor: Executor) -> Array:
        """(2, q, n_bits + 1) int64: all rows and relevant rows by distance.

        Graded, (2 + n_grades, q, n_bits + 1): then the rows that share 0, 1, … labels. By blocks of queries, so that no
        state is over 64 MiB.
        """
        n_bits, codes = function.n_bits, pack(function.encode(self.queries.x))
        y = self.queries.y
        n_grades = int(y.sum(axis=1).max()) + 1 if self.graded and y is not None else 0
        if not shards:
            return np.zeros((2 + n_grades, len(codes), n_bits + 1), np.int64)
        own, histograms = self.own_rows, []
        statistic: Statistic[Array, Array]
        for i in blocks(len(codes), 8 * max(2, n_grades) * (n_bits + 1)):
            labels = None if y is None else pack_labels(y[i])
            if self.neighbours is not None:
                key = i.start, i.stop
                if key not in self._sorted:  # once for all codes that are judged
                    self._sorted[key] = evaluation.listed(self.neighbours[i], own[i])
                statistic = evaluation.ListedNeighbours(codes[i], n_bits, self._sorted[key], own[i])
            elif n_grades:
                statistic = evaluation.GradedHistogram(codes[i], n_bits, labels, own[i], n_grades)
            else:
                statistic = evaluation.HammingHistogram(codes[i], n_bits, labels, own[i])
            histograms.append(Data(shards, executor).reduce(statistic, "evaluate"))
        found = np.concatenate(histograms, axis=1)
        return np.stack([found.sum(axis=0), found[1:].sum(axis=0), *found]) if n_grades else found


def blocks(queries: int, size: int) -> list[slice]:
    """Consecutive queries, of each of which a state holds so many bytes, in states of at most 64 MiB."""
    step = max(1, STATE // size)
    return [slice(start, start + step) for start in range(0, queries, step)]


def judge(
    spec: Spec,
    dataset: Dataset,
    vocabulary: tuple[str | int, ...],
    warehouse: str,
    executor: Executor,
    n_queries: int | None = None,
) -> Judge:
    """The queries of a dataset, all or the first so many, and their truth, which is computed once and kept."""
    drawn = "query" not in dataset.splits
    queries = draw(spec, dataset, vocabulary, warehouse, executor) if drawn else _read_queries(dataset, vocabulary)
    queries = queries.take(slice(n_queries))
    by_labels = _by_labels(spec.protocol, vocabulary, dataset)
    k = spec.protocol.neighbours
    graded = spec.protocol.relevance == "graded"
    relevance = "rows that share a label" if by_labels else f"the {k} nearest rows by Euclidean distance"
    relevance += ", graded by how many they share" if graded else ""
    protocol = f"relevant: {relevance}; {len(queries.ids)} queries; ties: expectation over random order"
    judge = Judge(queries, drawn, None, protocol, graded)
    if by_labels:
        return judge
    shards = dataset.shards("base")
    source = [(shard.name, shard.version) for shard in shards]
    key = digest(dataset.splits["base"], source, queries.ids.tolist(), queries.x.tobytes().hex(), "euclidean", k, drawn)
    truth = storage_queries.neighbours(warehouse, key)
    if truth is None:
        truth = exact_neighbours(queries.x, judge.own_rows, k, Data(shards, executor))
        storage_queries.keep_neighbours(warehouse, key, *truth)
    return replace(judge, neighbours=truth[0])


def exact_neighbours(x: Array, own_rows: Array, k: int, data: Data) -> tuple[Array, Array]:
    """(ids, squared distances) (q, k) of the rows nearest to x (q, d), by blocks of queries."""
    parts = [NearestNeighbours(x[i], own_rows[i], k) for i in blocks(len(x), ENTRY * k)]
    ids, distances = zip(*(data.reduce(part, "exact neighbours") for part in parts), strict=True)
    return np.concatenate(ids), np.concatenate(distances)


def draw(spec: Spec, dataset: Dataset, vocabulary: tuple[str | int, ...], warehouse: str, executor: Executor) -> Batch:
    """The frozen queries of a dataset without a query split. The first call draws them, by keyed hash of the ids."""
    found = storage_queries.frozen(warehouse, dataset.name, vocabulary)
    if found is None or spec.protocol.new_queries:
        sample = Sample(spec.protocol.queries, spec.method.seed)
        drawn = Data(dataset.shards("base", vocabulary), executor).reduce(sample, "draw queries")
        if len(drawn.ids) < spec.protocol.queries:
            raise ValueError(
                f"expected more than {spec.protocol.queries} rows in {dataset.name}, to draw so many queries from, "
                f"found {len(drawn.ids)}: ask for fewer"
            )
        storage_queries.freeze(warehouse, dataset.name, drawn, vocabulary, redraw=spec.protocol.new_queries)
        found = storage_queries.frozen(warehouse, dataset.name, vocabulary) or drawn
    return found


def metrics(histogram: Array) -> dict[str, Array]:
    """Of Judge.histogram's, each (q,) float64, by the names of the report. Empty balls and zero hits count as 0."""
    histogram, graded = histogram[:2], histogram[2:]
    gains = {"ndcg": evaluation.ndcg(graded), "ndcg_at_100": evaluation.ndcg(graded, 100)} if len(graded) else {}
    worst, best = evaluation.average_precision_bounds(histogram)
    return {
        "map": evaluation.average_precision(histogram),
        "map_pessimistic": worst,
        "map_optimistic": best,
        "map_trapezoid": evaluation.trapezoid_average_precision(histogram),
        "map_at_1000": evaluation.average_precision_at(histogram, 1000),
        "precision_at_100": evaluation.precision_at(histogram, 100),
        "recall_at_1000": evaluation.recall_at(histogram, 1000),
        "precision_radius_2": evaluation.precision_within(histogram, 2),
        "recall_radius_2": evaluation.recall_within(histogram, 2),
        "empty_balls_radius_2": (histogram[0, :, :3].sum(-1) == 0).astype(np.float64),
        **gains,
    }


def measured(histogram: Array, seed: int) -> Measured:
    """Means and intervals. The rows are those that were ranked for most queries."""
    estimates = {name: estimate(values, seed) for name, values in metrics(histogram).items()}
    return Measured(rows=int(histogram[0].sum(-1).max()), metrics=estimates)


def estimate(values: Array, seed: int) -> Estimate:
    low, high = evaluation.bootstrap_interval(values, seed)
    return Estimate(value=float(values.mean()), low=float(low), high=float(high))


def curves(histogram: Array) -> Curves:
    """Precision and recall by radius and by rank, as in the figures of DHN (Zhu et al., AAAI 2016)."""
    histogram = histogram[:2]
    precision, recall = evaluation.precision_recall_curve(histogram)
    rows = int(histogram[0].sum(-1).max())
    ranks = [n for power in range(len(str(rows))) for n in (10**power, 2 * 10**power, 5 * 10**power) if n <= rows]
    return Curves(
        precision=tuple(precision.mean(0).tolist()),
        recall=tuple(recall.mean(0).tolist()),
        ranks=tuple(ranks),
        precision_at=tuple(float(evaluation.precision_at(histogram, n).mean()) for n in ranks),
        recall_at=tuple(float(evaluation.recall_at(histogram, n).mean()) for n in ranks),
    )


def compare(
    judge: Judge,
    table: CodeTable,
    staged: tuple[Version, HashFunction],
    published: tuple[Version, HashFunction] | None,
    executor: Executor,
    seed: int,
) -> tuple[Array, Comparison | None]:
    """The staged version's histogram over all its rows, and its comparison with the published one.

    Shards that both versions hold unchanged are common as a whole and read once; of the others the rows with common
    ids are picked.
    """
    new = table.parts(staged[0].snapshot_id)
    old = table.parts(published[0].snapshot_id) if published else {}
    same = {name for name, part in new.items() if name in old and old[name].version == part.version}
    n_classes = len(table.vocabulary)

    def shards(parts: dict[str, Part], names: set[str]) -> list[Shard]:
        chosen = sorted((parts[name] for name in names), key=lambda part: (part.min_id, part.shard))
        return [CodeShard(part, table.n_bits, n_classes) for part in chosen]

    def shared(parts: dict[str, Part], others: dict[str, Part]) -> list[Shard]:
        rest = [others[name] for name in others.keys() - same]
        pairs = [
            (part, tuple(o for o in rest if o.min_id <= part.max_id and part.min_id <= o.max_id))
            for name, part in sorted(parts.items())
            if name not in same
        ]
        return [Common(CodeShard(p, table.n_bits, n_classes), overlapping) for p, overlapping in pairs if overlapping]

    whole = judge.histogram(staged[1], shards(new, same), executor)
    everything = whole + judge.histogram(staged[1], shards(new, new.keys() - same), executor)
    if not published or not old:
        return everything, None
    ours = whole + judge.histogram(staged[1], shared(new, old), executor)
    same_model = staged[0].properties["model"] == published[0].properties["model"]
    unchanged = whole if same_model else judge.histogram(published[1], shards(old, same), executor)
    theirs = unchanged + judge.histogram(published[1], shared(old, new), executor)
    if not ours[0].any():
        return everything, None
    difference = evaluation.average_precision(ours[:2]) - evaluation.average_precision(theirs[:2])
    a, b = measured(ours, seed), measured(theirs, seed)
    name = published[0].name
    return everything, Comparison(
        version=name, rows=a.rows, staged=a, published=b, map_difference=estimate(difference, seed)
    )


def health(codes: Data, n_bits: int) -> dict[str, float]:
    """How evenly packed codes use their bits."""
    found = codes.reduce(evaluation.CodeHealth(n_bits), "code health")
    return {
        "least balanced bit, share of ones": float(found.balance[np.abs(found.balance - 0.5).argmax()]),
        "least entropy of a bit": float(found.entropy.min()),
        "largest correlation of two bits": found.correlation,
    }


def overlap(judge: Judge, dataset: Dataset, executor: Executor) -> str:
    """How many rows of the database, and of the training set, are queries by id or content: this flatters metrics."""
    statistic = evaluation.Overlap(judge.queries.ids, judge.queries.x)

    def found(split: str) -> str:
        by_id, by_content = Data(dataset.shards(split), executor).reduce(statistic, "overlap")
        return f"{by_id} rows by id, {by_content} by content"

    drawn = "; the queries were drawn from it, and their own rows are not ranked" if judge.drawn else ""
    training = found("learn") if "learn" in dataset.splits else "the database" + " less its queries" * judge.drawn
    return f"database: {found('base')}{drawn}; training set: {training}"


def _read_queries(dataset: Dataset, vocabulary: tuple[str | int, ...]) -> Batch:
    batches = [batch for shard in dataset.shards("query", vocabulary) for batch in shard]
    y = np.concatenate([batch.y for batch in batches if batch.y is not None]) if batches[0].y is not None else None
    return Batch(np.concatenate([batch.ids for batch in batches]), np.concatenate([batch.x for batch in batches]), y)


def _by_labels(protocol: Protocol, vocabulary: tuple[str | int, ...], dataset: Dataset) -> bool:
    by_labels = protocol.relevance in ("labels", "graded")
    if by_labels and not vocabulary:
        raise ValueError(f"expected labels, for relevance by labels, found none in dataset {dataset.name}")
    return by_labels or (protocol.relevance == "auto" and bool(vocabulary))
