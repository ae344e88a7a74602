"""The flow `search`, which answers a file of queries and writes the results to Parquet."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from prefect import flow

from hashing.mapreduce import Array, Batch
from hashing.names import hint
from infra.executors import InProcess, Progress, silent
from storage import datasets, results
from storage.features import columns, contract, keys
from storage.features.dataset import Dataset
from storage.features.rows import form
from storage.files import filesystem

from . import opening
from .checks import check_outputs
from .ingested import number_new
from .reader import Search
from .spec import Value

FEW_PAIRS, FEW_ROWS = 10**10, 10**6  # smaller searches, and reading fewer vectors, take less time than to start Ray


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
    table: str, queries: str, out: str, asked: Search | None = None, version: str = "main", progress: Progress = silent
) -> SearchReport:
    """Search for all queries of a split or a file (see `read_queries`), and write the results to a Parquet file.

    Columns: query and id (int64), rank (int32, from 1), distance (int32 or float64, as in Reader.search). If rows have
    keys, also key, and query_key if the queries have keys too. The file metadata name the table, the version, its
    snapshot and its model.
    """
    start, asked = time.monotonic(), asked or Search()
    check_outputs(out)
    opened = opening.open(table, version, progress=progress, resident=False)
    dataset = opened.dataset
    batch, names = read_queries(dataset, queries)
    if len(batch.ids) * opened.rows < FEW_PAIRS and (not asked.rerank or opened.rows < FEW_ROWS):
        opened = replace(opened, executor=InProcess(progress))
    properties, distance = opened.version.properties, asked.distance(dataset.distance, opened.function)
    about = {
        "table": opened.table,
        "version": opened.version.name,
        "snapshot": str(opened.version.snapshot_id),
        "model": properties["model"],
        "search": asked.model_dump_json(),
        "distance": distance,
    }

    def columns(positions: Array, ids: Array, distances: Array) -> dict[str, Any]:
        found = {"query": batch.ids[positions], "id": ids, "distance": distances}
        if dataset.keys:
            found["key"] = keys.keys_of(dataset.keys, ids)
        if names is not None:
            found["query_key"] = names.take(positions)
        return found

    blocks = (columns(*block) for block in opened.blocks(batch.x, asked))
    rows = results.write_search_results(filesystem.absolute(out), blocks, about)
    return SearchReport(
        table=opened.table,
        version=opened.version.name,
        distance=distance,
        queries=len(batch.ids),
        rows=rows,
        out=filesystem.absolute(out),
        seconds=time.monotonic() - start,
    )


@flow(name="search")
def search_flow(table: str, queries: str, out: str, asked: Search | None = None, version: str = "main") -> SearchReport:
    """Search for all queries of a split or a file, on a schedule."""
    return search(table, queries, out, asked, version)


class Queries(NamedTuple):
    """The queries of a search."""

    batch: Batch
    keys: Any = None  # Arrow array; None if they have none


@contract.refusing()
def read_queries(dataset: Dataset, source: str) -> Queries:
    """Read queries from a split of the dataset, a file of vectors, or Parquet with the dataset's columns, into memory.

    `datasets.VECTOR_FILES` lists the files of vectors. Queries without ids, and queries whose key no row of the dataset
    has, get ids from 2^41, as in ingested files. Raises SourceRefused for queries that cannot be read.
    """
    keyed, url = dataset.columns.keyed, dataset.splits.get(source) or filesystem.absolute(source)
    if source not in dataset.splits:
        if "://" not in source and not Path(url).exists():
            meant = hint(source, dataset.splits, f"{dataset.name} has")
            raise LookupError(f"no file {source!r}, and no split of that name: {meant}")
        if vectors := datasets.read_vector_file(url):
            with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, an error
                x = np.concatenate(list(vectors)).astype(np.float32, copy=False)
            if x.shape[1] != dataset.dim:
                raise ValueError(f"{url}: expected vectors of dimension {dataset.dim}, found {x.shape[1]}")
            if errors := columns.usable_rows(x, x.shape[1], url, metric=dataset.metric)[1]:
                columns.refuse_row(errors, url, 0)
            return Queries(Batch(datasets.QUERY + np.arange(len(x)), x))
        if Path(url).is_file() and not form(url):
            known = ", ".join(datasets.VECTOR_FILES)
            raise LookupError(f"expected queries in a file {known}, or in a form of datasets with columns, found {url}")
    dropping = dataset.model_copy(update={"bad_rows": "drop"})
    if source in dataset.splits and dataset.embedding:
        shards = dropping.shards(source, allow_unknown=keyed)
    else:
        given = dropping.model_copy(update={"splits": {"query": url}, "embedding": None})
        shards = given.shards("query", allow_unknown=keyed)
    blocks = []
    for block in (block for shard in shards for block in shard.read_blocks()):
        if block.dropped and (source not in dataset.splits or dataset.bad_rows == "refuse"):
            file, row, _, error = block.dropped[0]
            columns.refuse_row({row: error}, file, 0)
        blocks.append((block.batch.ids, block.batch.x.copy(), block.names))
    ids = np.concatenate([np.zeros(0, np.int64), *(block[0] for block in blocks)])
    if not len(ids):
        raise ValueError(f"expected at least one query, found none in {url}")
    names = keys.joined(names for *_, names in blocks) if keyed else None
    distinct = len(np.unique(ids)) if names is None else len(names.unique())
    if distinct < len(ids):
        what = "keys" if keyed else "ids"
        raise ValueError(f"expected distinct {what} of queries, found {len(ids) - distinct} repeated, in {url}")
    ids = number_new(dataset, ids)
    return Queries(Batch(ids, np.concatenate([x for _, x, _ in blocks])), names)
