"""The flow `search`, which answers a file of queries and writes the results to Parquet."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from prefect import flow

from hashing.mapreduce import Batch
from infra.executors import InProcess, Progress, silent
from storage import datasets, results
from storage.features.dataset import Dataset
from storage.files import filesystem

from . import opening
from .reader import Search
from .spec import Value

FEW_PAIRS, FEW_ROWS = 10**10, 10**6  # below, a search, or reading all vectors, takes less time than to start Ray


class SearchReport(Value):
    """The summary of a search."""

    table: str
    version: str  # the version that was searched
    distance: str
    queries: int
    rows: int  # of the results
    out: str
    seconds: float


def search(
    table: str,
    queries: str,
    out: str,
    asked: Search | None = None,
    version: str = "main",
    progress: Progress = silent,
) -> SearchReport:
    """Search for all queries of a split or a file (see `read_queries`), and write the results to a Parquet file.

    Columns: query and id (int64), rank (int32, from 1), distance (int32 or float64, as in Reader.search). The file
    metadata name the table, the version, its snapshot and its model.
    """
    start, asked = time.monotonic(), asked or Search()
    opened = opening.open(table, version, progress=progress, resident=False)
    batch = read_queries(opened.dataset, queries)
    if len(batch.ids) * opened.rows < FEW_PAIRS and (not asked.rerank or opened.rows < FEW_ROWS):
        opened = replace(opened, executor=InProcess(progress))
    properties = opened.version.properties
    about = {
        "table": opened.table,
        "version": opened.version.name,
        "snapshot": str(opened.version.snapshot_id),
        "model": properties["model"],
        "search": asked.model_dump_json(),
        "distance": asked.distance(opened.dataset.distance),
    }
    blocks = ((batch.ids[positions], ids, distances) for positions, ids, distances in opened.blocks(batch.x, asked))
    rows = results.write_search_results(filesystem.absolute(out), blocks, about)
    return SearchReport(
        table=opened.table,
        version=opened.version.name,
        distance=asked.distance(opened.dataset.distance),
        queries=len(batch.ids),
        rows=rows,
        out=filesystem.absolute(out),
        seconds=time.monotonic() - start,
    )


@flow(name="search")
def search_flow(table: str, queries: str, out: str, asked: Search | None = None, version: str = "main") -> SearchReport:
    """Search for all queries of a split or a file, on a schedule."""
    return search(table, queries, out, asked, version)


def read_queries(dataset: Dataset, source: str) -> Batch:
    """Return a split of the dataset, or a file: of vectors, or Parquet with the dataset's columns.

    Files of vectors are those of `datasets.VECTOR_FILES`. All queries are held in memory. Queries without ids are
    numbered from 2^41, as in ingested files.
    """
    if source not in dataset.splits and (blocks := datasets.read_vectors(filesystem.absolute(source))):
        x = np.concatenate(list(blocks))
        return Batch(datasets.QUERY + np.arange(len(x)), x)
    if source not in dataset.splits and "/" not in source and not Path(source).exists():
        known = ", ".join(dataset.splits)
        raise LookupError(f"expected a split of {dataset.name} ({known}) or a file of queries, found {source!r}")
    url = dataset.splits.get(source, filesystem.absolute(source))
    shards = dataset.model_copy(update={"splits": {"query": url}}).shards("query")
    batches = [batch for shard in shards for batch in shard]
    ids = np.concatenate([np.zeros(0, np.int64), *(batch.ids for batch in batches)])
    if not len(ids):
        raise ValueError(f"expected at least one query, found none in {url}")
    if len(np.unique(ids)) < len(ids):
        raise ValueError(f"expected distinct ids of queries, found {len(ids) - len(np.unique(ids))} repeated, in {url}")
    return Batch(ids, np.concatenate([batch.x for batch in batches]))
