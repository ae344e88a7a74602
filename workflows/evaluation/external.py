"""Evaluate codes from arrays and files, with the same metrics as versions of a table."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from hashing.mapreduce import Array, Data, Executor, Metric, concatenated
from hashing.names import check_choice
from hashing.neighbours.exact import METRICS
from hashing.statistics import Sample
from infra.executors import InProcess, Progress, connect, silent
from infra.settings import Settings
from storage.formats import npy

from ..arrays import as_codes, as_count, as_labels, as_vectors, float32, multi_hot, packed_codes, shards_of
from ..records import Report
from . import health
from .by_id import metrics_and_curves
from .ground_truth import exact_neighbours
from .judge import DISTANCES, TIES, Judge

SEED = 0


def evaluate(
    codes: Any,
    queries: Any = None,
    *,
    labels: Any = None,
    query_labels: Any = None,
    neighbours: int | None = None,
    vectors: Any = None,
    query_vectors: Any = None,
    metric: Metric = "euclidean",
    bits: int | None = None,
    n_queries: int = 1000,
    ties: Literal["expectation", "by-id"] = "expectation",
    executor: Executor | None = None,
) -> Report:
    """Measure how well Hamming distances between codes find the rows that are relevant to each query.

    A row is relevant if it shares a label with the query (`labels`), or if it is one of the query's exact nearest rows
    (`neighbours` and `vectors`).

    Parameters
    ----------
    codes : array-like
        Codes of the database: (n, B) uint8, packed as `Hasher.encode` and Faiss pack them; or (n, n_bits) of bool, or
        of -1 and +1 in any other dtype.
    queries : array-like, optional
        Codes of the queries, in the same form. If not given, a fixed random sample of `n_queries` rows is used, and a
        query's own row is not ranked.
    labels, query_labels : array-like, optional
        Labels of the rows and of the queries: (n,) integer classes, or (n, c) multi-hot of 0 and 1.
    neighbours : int, optional
        Number of nearest rows that are relevant to a query, at most the number of ranked rows.
    vectors, query_vectors : array-like, optional
        The encoded vectors, (n, d) and (q, d), compared as float32.
    metric : {"euclidean", "cosine", "ip"}, default "euclidean"
        How vectors are compared; "ip" is the inner product.
    bits : int, optional
        Number of bits of packed codes, if less than 8 B.
    n_queries : int, default 1000
        Number of queries to sample, if `queries` is not given; all rows if there are fewer.
    ties : {"expectation", "by-id"}, default "expectation"
        Order of rows at equal distance: the expectation over random order, or by position (at most 10^6 rows).
    executor : Executor, optional
        Where shards are processed, such as `infra.executors.Ray()`; default: in this process.

    Returns
    -------
    Report
        `report.measured.metrics` maps the name of each metric to its mean over queries and 95 % bootstrap interval.
        `curves` holds the precision and recall curves, `health` the statistics of the bits.

    Raises
    ------
    ValueError
        If arguments are missing or conflict, or if a type, shape or value is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> import hashkiln
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(5, size=500)
    >>> x = 3 * np.eye(5)[y] + rng.normal(size=(500, 5))
    >>> codes = hashkiln.fit(x, method="lsh", bits=32).encode(x)
    >>> report = hashkiln.evaluate(codes, labels=y)
    >>> report.measured.metrics["map"].value > 0.5  # random codes have 0.2
    True
    >>> report = hashkiln.evaluate(codes[50:], codes[:50], neighbours=10, vectors=x[50:], query_vectors=x[:50])
    >>> 0 < report.measured.metrics["recall_at_1000"].low <= 1
    True
    """
    own = queries is not None
    by_labels, by_vectors = ["labels", "query_labels"][: 1 + own], ["neighbours", "vectors", "query_vectors"][: 2 + own]
    truth = {"labels": labels, "query_labels": query_labels, "neighbours": neighbours, "vectors": vectors,
             "query_vectors": query_vectors}  # fmt: skip
    given = [name for name, value in truth.items() if value is not None]
    if given not in (by_labels, by_vectors):
        case = "queries" if own else "no queries"
        either = f"{' and '.join(by_labels)}, or {', '.join(by_vectors[:-1])} and {by_vectors[-1]}"
        raise ValueError(f"with {case}: expected {either}, found {', '.join(given) or 'none of them'}")
    n_queries, k = as_count("n_queries", n_queries), None if neighbours is None else as_count("neighbours", neighbours)
    check_choice("ties", ties, TIES)
    check_choice("metric", metric, METRICS)
    if not isinstance(executor, Executor | None):
        raise ValueError(f"executor: expected an executor, such as infra.executors.Ray(), found {executor!r}")
    x, n_bits = as_codes("codes", codes, bits)
    if k is not None and k > (ranked := len(x) - (not own)):
        raise ValueError(f"neighbours: expected at most {ranked}, the number of ranked rows, found {k}")
    y = None if labels is None else as_labels("labels", labels, len(x))
    query_x, query_y = x, y
    if own:
        query_x, query_bits = as_codes("queries", queries, bits)
        query_y = None if labels is None else as_labels("query_labels", query_labels, len(query_x))
        if query_bits != n_bits:
            raise ValueError(f"queries: expected codes of {n_bits} bits like the database, found {query_bits} bits")
        if query_y is not None and y is not None and query_y.shape[1:] != y.shape[1:]:
            raise ValueError(f"query_labels: expected labels like {y.shape}, found {query_y.shape}")
    data = Data(shards_of(x, None, None, packed_codes), executor or InProcess())
    if own:
        sample = concatenated([batch for shard in shards_of(query_x, None, None, packed_codes) for batch in shard])
    else:
        sample = data.reduce(Sample(n_queries, SEED), "sample queries")
        query_y = None if y is None else y[sample.ids]
    if y is not None and query_y is not None:
        classes = np.unique(query_y) if y.ndim == 1 else None  # no row is relevant for another label
        data = Data(shards_of(x, y, classes, packed_codes), data.executor)
        sample = sample._replace(y=multi_hot(query_y, classes))
    judge = Judge(sample, not own, None, "")
    if k is not None:
        judge = replace(judge, neighbours=_nearest(vectors, query_vectors, k, metric, judge, len(x), data.executor))
    histogram = judge.histogram_of(sample.x, n_bits, list(data.shards), data.executor)
    rankings = judge.ranked(sample.x) if ties == "by-id" else None
    measured, curves = metrics_and_curves(histogram, judge.k, SEED, rankings, data.shards)
    relevant = f"the {k} nearest rows by {DISTANCES[metric]}" if k else "rows that share a label"
    origin = "given separately" if own else "sampled from the rows, own rows not ranked"
    return Report(
        protocol=f"relevant: {relevant}; {len(sample.ids)} queries, {origin}; ties: {TIES[ties]}",
        measured=measured,
        curves=curves,
        comparison=None,
        health=health.code_health(data, n_bits),
        overlap="not computed: the codes have no ids" if own else "the queries are rows of the database",
    )


def _nearest(
    vectors: Any, query_vectors: Any, k: int, metric: Metric, judge: Judge, n: int, executor: Executor
) -> Array:
    """Return the ids (q, k) of the rows nearest to each query."""
    x = as_vectors("vectors", vectors)
    if len(x) != n:
        raise ValueError(f"vectors: expected one for each of {n} codes, found {len(x)}")
    ids = judge.queries.ids
    queries = x[ids] if query_vectors is None else as_vectors("query_vectors", query_vectors, x.shape[1])
    if len(queries) != len(ids):
        raise ValueError(f"query_vectors: expected one for each of {len(ids)} queries, found {len(queries)}")
    data = Data(shards_of(x, None, None, float32), executor)
    return exact_neighbours(float32(queries), judge.own_rows, k, data, metric)[0]


def evaluate_files(
    codes: str,
    labels: str,
    query_codes: str | None = None,
    query_labels: str | None = None,
    bits: int | None = None,
    n_queries: int = 1000,
    ties: Literal["expectation", "by-id"] = "expectation",
    progress: Progress = silent,
) -> Report:
    """Evaluate codes and labels in .npy files, on the executor of the settings."""
    x, y, queries, query_y = (path and npy.read_npy(path) for path in (codes, labels, query_codes, query_labels))
    return evaluate(
        x, queries, labels=y, query_labels=query_y, bits=bits, n_queries=n_queries, ties=ties,
        executor=connect(Settings(), progress),
    )  # fmt: skip
