"""Queries to look at: those with the best, median and worst average precision, and the rows nearest to them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np

from hashing.evaluation.metrics import average_precision
from hashing.mapreduce import Array, Data
from hashing.neighbours.candidates import TopK
from storage import models
from storage.tables.joined import joined
from storage.tables.parts import CodeShard, labels_of_rows
from storage.tables.table import CodeTable, Version

from ..context import Context
from ..records import Example, Neighbour
from . import incremental
from .comparison import Counter, whole_histogram
from .ground_truth import ids_of_parts, updated
from .judge import judge_of

EACH, NEIGHBOURS = 3, 8  # queries of each kind; rows for each query
ROWS = 10**7  # of a larger table, a run should not read all codes to find them


def examples(context: Context, table: CodeTable, version: Version) -> tuple[Example, ...]:
    """Return the best, median and worst queries that have relevant rows; none if the version has over ROWS rows.

    The version was measured before: its ground truth and its histogram are in the cache.
    """
    executor = context.executor.with_resources(context.settings.evaluate)
    judge = judge_of(context, table.vocabulary)
    counter = Counter(judge, table, context.warehouse, executor)
    shards = [counter.shard(part) for part in table.parts(version.snapshot_id).values()]
    if sum(shard.part.rows for shard in shards) > ROWS:
        return ()
    histogram = whole_histogram(counter, version)
    precision = average_precision(histogram[:2])
    order = np.argsort(-precision, kind="stable")
    order = order[histogram[1].sum(-1)[order] > 0]
    each = min(EACH, len(order) // 3)
    if not each:
        return ()
    middle = (len(order) - each) // 2
    chosen = np.concatenate([order[:each], order[middle : middle + each], order[-each:]])
    codes = judge.codes(models.load_model(context.warehouse, version.properties["model"]))
    ids, distances = (found[chosen] for found in _nearest(counter, codes, shards))
    labels = _labels(counter, shards, ids)
    found = []
    for kind, q, near, rows in zip(
        np.repeat(["best", "median", "worst"], each).tolist(), chosen.tolist(), distances, ids, strict=True
    ):
        others = (rows != judge.own_rows[q]) & (rows >= 0)
        own = [] if judge.queries.y is None else [judge.classes[j] for j in np.flatnonzero(judge.queries.y[q])]
        if judge.neighbours is not None:
            relevant = set(judge.neighbours[q].tolist())
        else:
            relevant = {i for i, of_row in labels.items() if not set(own).isdisjoint(of_row)}
        neighbours = [
            Neighbour(
                id=i, distance=distance, relevant=i in relevant, labels=_names(labels.get(i, []), table.vocabulary)
            )
            for i, distance in zip(rows[others].tolist(), near[others].astype(int).tolist(), strict=True)
        ]
        found.append(
            Example(
                kind=kind,
                id=int(judge.queries.ids[q]),
                precision=float(precision[q]),
                labels=_names(own, table.vocabulary),
                neighbours=tuple(neighbours[:NEIGHBOURS]),
            )
        )
    return tuple(found)


def _nearest(counter: Counter, codes: Array, shards: Sequence[CodeShard]) -> tuple[Array, Array]:
    """Return (ids, distances) of the rows nearest to every query.

    They are cached for all queries, because other queries are the best and worst ones of the next version.
    """
    k, table = NEIGHBOURS + counter.judge.drawn, counter.table.name

    def find(shards: Sequence[CodeShard], k: int) -> tuple[Array, Array]:
        distances, ids = Data(joined(shards), counter.executor).reduce(TopK(codes, k), "examples")
        return ids, np.where(ids >= 0, distances, np.inf)

    named = {(shard.part.shard, shard.part.url): replace(shard, classes=()) for shard in shards}
    url = incremental.url(counter.warehouse, "examples", table, codes.tobytes().hex(), k)
    return updated(find, k, named, lambda removed: ids_of_parts(url for _, url in removed), url)


def _labels(counter: Counter, shards: Sequence[CodeShard], ids: Array) -> dict[int, list[int]]:
    """Return the labels of rows, as positions in the vocabulary of the table, by id; nothing if it has no labels."""
    if not counter.table.vocabulary:
        return {}
    wanted = np.unique(ids)
    held = [shard.part for shard in shards if ((shard.part.min_id <= wanted) & (wanted <= shard.part.max_id)).any()]
    read = partial(labels_of_rows, n_bits=counter.table.n_bits, ids=wanted)
    found = counter.executor.map(read, held, "labels of examples")
    return dict(chain.from_iterable(map(dict.items, found)))


def _names(labels: Sequence[int], vocabulary: tuple[str | int, ...]) -> tuple[str, ...]:
    return tuple(str(vocabulary[label]) for label in labels)
