"""How good codes are: queries, what is relevant to them, histograms over the parts of versions, and their metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType

import numpy as np

from hashing import evaluation
from hashing.bits import pack
from hashing.functions import HashFunction
from hashing.hamming import pack_labels
from hashing.mapreduce import Array, Batch, Data, Executor, Shard, Statistic
from hashing.rankings import Ranked
from hashing.statistics import Sample
from storage import queries as storage_queries
from storage.codes import Part
from storage.features import Dataset

from . import kept
from .spec import Protocol, Spec, Value, digest
from .truth import blocks, nearest

HEALTH = {  # name in rules of the gate -> words of the report
    "balance": "least balanced bit, share of ones",
    "entropy": "least entropy of a bit",
    "correlation": "largest correlation of two bits",
    "constant_bits": "constant bits",
}
TIES = {"expectation": "expectation over random order", "by-id": "in order of id"}
LESS_IS_BETTER = {"empty_balls_radius_2"}
EMPTY: Mapping[str, Part] = MappingProxyType({})
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
    differences: dict[str, Estimate]  # by metric, staged - published, paired by query


@dataclass(frozen=True)
class Judge:
    """Queries, and what is relevant to each: rows that share a label, or the listed neighbours."""

    queries: Batch
    drawn: bool  # rows of the database: then a query's own row is not ranked
    neighbours: Array | None  # (q, k) int64 ids; None: labels
    protocol: str
    graded: bool = False  # by how many labels are shared
    _sorted: dict[tuple[int, int], evaluation.Listed] = field(default_factory=dict, repr=False)

    @cached_property
    def identity(self) -> str:
        """The digest of all that a histogram depends on beside codes and labels of the database."""
        x, y, truth = self.queries.x, self.queries.y, self.neighbours
        labels = None if y is None else np.argwhere(y).tolist()  # a vocabulary that grew changes nothing
        listed = None if truth is None else [truth.shape, truth.tobytes().hex()]
        return digest(self.queries.ids.tolist(), x.tobytes().hex(), labels, listed, self.drawn, self.graded)

    @property
    def own_rows(self) -> Array:
        """The id of each query's own row in the database; one that no row has where the queries are no rows of it."""
        return self.queries.ids if self.drawn else _NO_ROW + np.arange(len(self.queries.ids))

    def ranked(self, function: HashFunction) -> Ranked:
        """The queries as literal rankings take them."""
        labels = None if self.queries.y is None else pack_labels(self.queries.y)
        return Ranked(pack(function.encode(self.queries.x)), self.own_rows, labels, self.neighbours)

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


def judge(
    spec: Spec,
    dataset: Dataset,
    vocabulary: tuple[str | int, ...],
    warehouse: str,
    executor: Executor,
    n_queries: int | None = None,
    published: Mapping[str, Part] = EMPTY,
) -> Judge:
    """The queries of a dataset, all or the first so many, and their truth, which is computed once and kept.

    Published parts tell which rows have left since.
    """
    drawn = "query" not in dataset.splits
    queries = draw(spec, dataset, vocabulary, warehouse, executor) if drawn else _read_queries(dataset, vocabulary)
    queries = queries.take(slice(n_queries))
    by_labels = _by_labels(spec.protocol, vocabulary, dataset)
    k = spec.protocol.neighbours
    graded = spec.protocol.relevance == "graded"
    relevance = "rows that share a label" if by_labels else f"the {k} nearest rows by Euclidean distance"
    relevance += ", graded by how many they share" if graded else ""
    protocol = f"relevant: {relevance}; {len(queries.ids)} queries; ties: {TIES[spec.protocol.ties]}"
    judge = Judge(queries, drawn or dataset.queries_in_base, None, protocol, graded)
    if by_labels:
        return judge
    shards = dataset.shards("base")
    source = [(shard.name, shard.version) for shard in shards]
    # "nearest": lists that were kept under "euclidean" may lack rows
    asked = [dataset.splits["base"], queries.ids.tolist(), queries.x.tobytes().hex(), "nearest", k, judge.drawn]
    key = digest(source, *asked)
    truth = storage_queries.neighbours(warehouse, key)
    if truth is None:
        lists = kept.url(warehouse, "neighbours", *asked)
        truth = nearest(queries.x, judge.own_rows, k, shards, published, executor, lists)
        storage_queries.keep_neighbours(warehouse, key, *truth)
    return replace(judge, neighbours=truth[0])


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


def metrics(histogram: Array, ranked: Array | None = None) -> dict[str, Array]:
    """Of Judge.histogram's, each (q,) float64, by the names of the report. Empty balls and zero hits count as 0.

    Metrics that go by rank are expectations over ties, or those of `ranked`, given as a histogram of its runs.
    """
    ranked, graded = np.split(histogram if ranked is None else ranked, [2])
    ties, ranks = evaluation.groups(histogram[:2]), evaluation.groups(ranked)
    gains = {"ndcg": evaluation.ndcg(graded), "ndcg_at_100": evaluation.ndcg(graded, 100)} if len(graded) else {}
    worst, best = evaluation.average_precision_bounds(ties)
    return {
        "map": evaluation.average_precision(ranks),
        "map_pessimistic": worst,
        "map_optimistic": best,
        "map_trapezoid": evaluation.trapezoid_average_precision(ranks),
        "map_at_1000": evaluation.average_precision_at(ranks, 1000),
        "precision_at_100": evaluation.precision_at(ranks, 100),
        "recall_at_1000": evaluation.recall_at(ranks, 1000),
        "precision_radius_2": evaluation.precision_within(ties, 2),
        "recall_radius_2": evaluation.recall_within(ties, 2),
        "empty_balls_radius_2": (histogram[0, :, :3].sum(-1) == 0).astype(np.float64),
        **gains,
    }


def measured(histogram: Array, seed: int, found: dict[str, Array] | None = None) -> Measured:
    """Means and intervals of the metrics. The rows are those that were ranked for most queries."""
    estimates = {name: estimate(values, seed) for name, values in (found or metrics(histogram)).items()}
    return Measured(rows=int(histogram[0].sum(-1).max()), metrics=estimates)


def estimate(values: Array, seed: int) -> Estimate:
    low, high = evaluation.bootstrap_interval(values, seed)
    return Estimate(value=float(values.mean()), low=float(low), high=float(high))


def curves(histogram: Array, at: Array | None = None) -> Curves:
    """Precision and recall by radius and by rank, as in the figures of DHN (Zhu et al., AAAI 2016).

    By rank they are `curves_at` of the histogram, or of literal rankings.
    """
    histogram = histogram[:2]
    precision, recall = evaluation.precision_recall_curve(histogram)
    precision_at, recall_at = (curves_at(histogram, ranks(histogram)) if at is None else at).mean(axis=2)
    return Curves(
        precision=tuple(precision.mean(0).tolist()),
        recall=tuple(recall.mean(0).tolist()),
        ranks=tuple(ranks(histogram)),
        precision_at=tuple(precision_at.tolist()),
        recall_at=tuple(recall_at.tolist()),
    )


def ranks(histogram: Array) -> list[int]:
    """1, 2, 5, 10, … up to the rows."""
    rows = int(histogram[0].sum(-1).max())
    return [n for power in range(len(str(rows))) for n in (10**power, 2 * 10**power, 5 * 10**power) if n <= rows]


def curves_at(ranked: Array, ranks: list[int]) -> Array:
    """(2, len(ranks), q) float64: precision and recall of the first N ranks."""
    both, ties = (evaluation.precision_at, evaluation.recall_at), evaluation.groups(ranked[:2])
    found = [metric(ties, n) for metric in both for n in ranks]
    return np.reshape(found, (2, len(ranks), ranked.shape[1]))


def health(codes: Data, n_bits: int) -> dict[str, float]:
    """How evenly packed codes use their bits."""
    return in_words(codes.reduce(evaluation.CodeHealth(n_bits), "code health"))


def in_words(found: evaluation.Health) -> dict[str, float]:
    return {
        HEALTH["balance"]: float(found.balance[np.abs(found.balance - 0.5).argmax()]),
        HEALTH["entropy"]: float(found.entropy.min()),
        HEALTH["correlation"]: found.correlation,
        HEALTH["constant_bits"]: float((found.entropy == 0).sum()),
    }


def overlap(judge: Judge, dataset: Dataset, warehouse: str, executor: Executor) -> str:
    """How many rows of the database, and of the training set, are queries by id or content: this flatters metrics."""
    statistic = evaluation.Overlap(judge.queries.ids, judge.queries.x)

    def found(split: str) -> str:
        asked = ["overlap", judge.queries.ids.tolist(), judge.queries.x.tobytes().hex(), dataset.splits[split]]
        by_id, by_content = kept.by_shard(
            statistic, kept.url(warehouse, *asked), dataset.shards(split), executor, "overlap"
        )
        return f"{by_id} rows by id, {by_content} by content"

    drawn = "; the queries are rows of it, and their own rows are not ranked" if judge.drawn else ""
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
