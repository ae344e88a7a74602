"""Queries and their relevant rows, and histograms of the distances between queries and codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain
from types import MappingProxyType
from typing import Any

import numpy as np

from hashing.bits import pack
from hashing.evaluation.by_id import RankingById
from hashing.evaluation.by_score import RankingByScore, Scores
from hashing.evaluation.histograms import GradedHistogram, HammingHistogram, NeighbourHistogram
from hashing.functions import HashFunction
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Array, Batch, Data, Executor, Shard, Statistic, concatenated
from hashing.neighbours.id_lookup import IdLookup, neighbour_lookup
from hashing.statistics import Sample
from storage import queries as storage_queries
from storage.features import columns, deletions, subsets
from storage.features.dataset import Dataset
from storage.features.shard import FeatureShard
from storage.queries import QuerySet
from storage.tables.parts import Part

from ..context import Context
from ..ingested import dataset_of, number_new
from ..spec import Protocol, digest
from . import incremental
from .ground_truth import nearest, query_slices

TIES = {"expectation": "expectation over random order", "by-id": "in order of id"}
DISTANCES = {
    "euclidean": "Euclidean distance", "cosine": "cosine", "ip": "inner product", "hamming": "Hamming distance",
}  # fmt: skip
EMPTY: Mapping[str, Part] = MappingProxyType({})
_NO_ROW = np.iinfo(np.int64).min


@dataclass(frozen=True)
class Judge:
    """Queries and their relevant rows: rows that share a label, or the listed neighbours."""

    queries: Batch
    drawn: bool  # whether queries are rows of the database; then a query's own row is not ranked
    neighbours: Array | None  # (q, k) int64 ids; None: relevance by labels
    protocol: str
    graded: bool = False  # relevance is the number of shared labels
    device: str | None = None  # torch device that counts distances; None: the CPU, without torch
    classes: tuple[int, ...] = ()  # labels that queries.y has columns for, as positions in a table's vocabulary
    _sorted: dict[tuple[int, int], IdLookup] = field(default_factory=dict, repr=False)

    @property
    def k(self) -> int:
        """The number of neighbours that are relevant to each query; 0 for relevance by labels."""
        return 0 if self.neighbours is None else self.neighbours.shape[1]

    @property
    def read_classes(self) -> tuple[int, ...]:
        """The labels of rows that relevance depends on: those of the queries; none if neighbours are listed."""
        return self.classes if self.neighbours is None else ()

    @cached_property
    def identity(self) -> str:
        """A digest of everything that a histogram depends on, except the codes and labels of the database."""
        x, y, truth = self.queries.x, self.queries.y, self.neighbours
        labels = None
        if y is not None:  # by position in the vocabulary, which does not change when labels are added to it
            labels = [[i, self.classes[j] if self.classes else j] for i, j in np.argwhere(y).tolist()]
        listed = None if truth is None else [truth.shape, truth.tobytes().hex()]
        return digest(self.queries.ids.tolist(), x.tobytes().hex(), labels, listed, self.drawn, self.graded)

    @property
    def own_rows(self) -> Array:
        """The id of each query's own row in the database, or an unused id if the queries are not rows of it."""
        return self.queries.ids if self.drawn else _NO_ROW + np.arange(len(self.queries.ids))

    @property
    def n_grades(self) -> int:
        """The number of grades, from 0 to the most labels of a query; 0 unless relevance is graded."""
        y = self.queries.y
        return int(y.sum(axis=1).max()) + 1 if self.graded and y is not None else 0

    def codes(self, function: HashFunction) -> Array:
        """Return the packed codes (q, B) of the queries."""
        return pack(function.encode(self.queries.x))

    def ranked(self, codes: Array) -> RankingById:
        """Return the queries with packed codes (q, B) as input for rankings by id."""
        labels = None if self.queries.y is None else pack_labels(self.queries.y)
        return RankingById(codes, self.own_rows, labels, self.neighbours)

    def by_score(self, scores: Scores, queries: slice) -> RankingByScore:
        """Return a block of queries as input for rankings by score."""
        own, y = self.own_rows[queries], self.queries.y
        labels = None if y is None else pack_labels(y[queries])
        listed = None if self.neighbours is None else neighbour_lookup(self.neighbours[queries], own)
        return RankingByScore(scores, own, labels, listed, self.n_grades)

    def histogram(self, function: HashFunction, shards: list[Shard], executor: Executor) -> Array:
        """Return `histogram_of` for the queries encoded by a hash function."""
        return self.histogram_of(self.codes(function), function.n_bits, shards, executor)

    def histogram_of(self, codes: Array, n_bits: int, shards: list[Shard], executor: Executor) -> Array:
        """Return (2, q, n_bits + 1) int64 for packed query codes (q, B): all rows and relevant rows by distance.

        If graded, (2 + n_grades, q, n_bits + 1): the rows that share 0, 1, … labels follow. Queries are counted in
        blocks, so that a state takes at most 64 MiB.
        """
        y, n_grades = self.queries.y, self.n_grades
        if not shards:
            return np.zeros((2 + n_grades, len(codes), n_bits + 1), np.int64)
        own, histograms = self.own_rows, []
        statistic: Statistic[Array, Array]
        for i in query_slices(len(codes), 8 * max(2, n_grades) * (n_bits + 1)):
            labels = None if y is None else pack_labels(y[i])
            if self.neighbours is not None:
                key = i.start, i.stop
                if key not in self._sorted:  # computed once for all codes that are measured
                    self._sorted[key] = neighbour_lookup(self.neighbours[i], own[i])
                statistic = NeighbourHistogram(codes[i], n_bits, self._sorted[key], own[i], device=self.device)
            elif n_grades:
                statistic = GradedHistogram(codes[i], n_bits, labels, own[i], n_grades, device=self.device)
            else:
                statistic = HammingHistogram(codes[i], n_bits, labels, own[i], device=self.device)
            histograms.append(Data(shards, executor).reduce(statistic, "evaluate"))
        found = np.concatenate(histograms, axis=1)
        return np.stack([found.sum(axis=0), found[1:].sum(axis=0), *found]) if n_grades else found


def judge_of(
    context: Context,
    vocabulary: tuple[str | int, ...],
    n_queries: int | None = None,
    published: Mapping[str, Part] = EMPTY,
) -> Judge:
    """Return the judge of a dataset, with cached ground truth if relevance is by neighbours.

    Only the first `n_queries` queries are used (None: all). The `published` parts, by shard name, hold the ids of rows
    that were removed since the ground truth was cached. Raises ValueError for relevance by labels without labels.
    """
    spec, dataset, warehouse = context.spec, context.dataset, context.warehouse
    drawn = "query" not in dataset.splits
    queries, classes = draw_queries(context).batch(vocabulary) if drawn else _read_queries(dataset, vocabulary)
    queries = queries.take(slice(n_queries))
    by_labels = _by_labels(spec.protocol, vocabulary, dataset)
    k = spec.protocol.neighbours
    graded = spec.protocol.relevance == "graded"
    relevance = "rows that share a label" if by_labels else f"the {k} nearest rows by {DISTANCES[dataset.metric]}"
    relevance += ", graded by how many they share" if graded else ""
    protocol = f"relevant: {relevance}; {len(queries.ids)} queries; ties: {TIES[spec.protocol.ties]}"
    device = context.settings.device if context.settings.evaluate.gpus else None
    judge = Judge(queries, drawn or dataset.queries_in_base, None, protocol, graded, device, classes)
    if by_labels:
        return judge
    source = [(shard.name, shard.version) for shard in context.base]
    # "nearest": lists that old releases cached under "euclidean" may lack rows
    identity = [dataset.splits["base"], queries.ids.tolist(), queries.x.tobytes().hex(), "nearest", k, judge.drawn]
    identity += [] if dataset.distance == "euclidean" else [dataset.distance]
    key = digest(source, *identity, *deletions.names(dataset.deleted))
    truth = storage_queries.cached_neighbours(warehouse, key)
    if truth is None:
        lists = incremental.url(warehouse, "neighbours", *identity)
        deleted = deletions.deleted_ids(dataset.deleted)
        truth = nearest(
            queries.x, judge.own_rows, k, context.base, published, deleted, context.executor, lists, dataset.distance,
            device,
        )  # fmt: skip
        storage_queries.cache_neighbours(warehouse, key, *truth)
    return replace(judge, neighbours=truth[0])


def draw_queries(context: Context, shards: Sequence[FeatureShard] = ()) -> QuerySet:
    """Return the frozen queries of a dataset without a query split.

    The first call samples them by hashed id, from shards of the database, by default those of now.
    """
    spec, dataset, warehouse = context.spec, context.dataset, context.warehouse
    found = storage_queries.load_queries(warehouse, dataset.name)
    if found is None or spec.protocol.new_queries:
        sample, shards = Sample(spec.protocol.queries, spec.method.seed), shards or dataset.shards("base")
        drawn = Data(shards, context.executor).reduce(sample, "sample queries")
        if (rows := len(drawn.ids)) < spec.protocol.queries:
            raise ValueError(
                f"{rows:,} rows of {dataset.name} are too few to draw {spec.protocol.queries:,} queries from: pass "
                "fewer by --queries"
            )
        labels = None
        if dataset.columns.labels:
            read = partial(subsets.labels_of_rows, ids=drawn.ids)
            by_id = dict(chain.from_iterable(map(dict.items, context.executor.map(read, shards, "labels of queries"))))
            labels = [by_id[i] for i in drawn.ids.tolist()]
        own = QuerySet(drawn.ids, drawn.x, labels)
        storage_queries.save_queries(warehouse, dataset.name, own, redraw=spec.protocol.new_queries)
        now = dataset_of(spec, context.settings).deleted
        if late := deletions.added(now, dataset.deleted):  # while queries were drawn
            storage_queries.remove_queries(warehouse, dataset.name, deletions.deleted_ids(late))
        found = storage_queries.load_queries(warehouse, dataset.name) or own
    return found


def _read_queries(dataset: Dataset, vocabulary: tuple[str | int, ...]) -> tuple[Batch, tuple[int, ...]]:
    """Return the queries of the split query, and the labels that their y has columns for: those that a query has."""
    shards = dataset.shards("query", vocabulary, allow_unknown=dataset.columns.keyed)
    batches, labels = list[Batch](), list[Any]()
    for block in (block for shard in shards for block in shard.read_blocks()):
        batches.append(block.batch._replace(x=block.batch.x.copy()))
        labels += [] if block.labels is None else [block.labels]
    queries = concatenated(batches)
    queries = queries._replace(ids=number_new(dataset, queries.ids))
    if not labels:
        return queries, ()
    classes = tuple(sorted(set[int]().union(*(row.flatten().to_pylist() for row in labels)))) or (0,)
    y = np.concatenate([columns.multi_hot_labels(row, classes) for row in labels])
    return queries._replace(y=y), classes


def _by_labels(protocol: Protocol, vocabulary: tuple[str | int, ...], dataset: Dataset) -> bool:
    by_labels = protocol.relevance in ("labels", "graded")
    if by_labels and not vocabulary:
        raise ValueError(f"relevance by labels needs labels: dataset {dataset.name} has none")
    return by_labels or (protocol.relevance == "auto" and bool(vocabulary))
