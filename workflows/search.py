"""Search in a code table: `open` pins a version and its model, the flow `search` answers a whole file of queries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prefect import flow
from pydantic import Field, model_validator

from hashing.bits import pack
from hashing.functions import HashFunction
from hashing.mapreduce import Array, Batch, Data, Executor, Statistic
from hashing.neighbours.candidates import AsymmetricTopK, CountWithin, TopK, Within, query_blocks
from hashing.neighbours.exact import first_k
from hashing.neighbours.reranking import CandidateDistances
from infra.executors import Progress, connect, silent
from infra.settings import Settings
from storage import datasets, models, results
from storage.features import deletions
from storage.features.dataset import Dataset
from storage.files import filesystem
from storage.formats import npy, vecs
from storage.tables.parts import CodeShard
from storage.tables.table import Version

from .datasets import VECTOR_FILES, dataset_of
from .spec import Spec, Value
from .tables.opening import open_table


class Search(Value):
    """What is asked of a search."""

    k: int = Field(10, ge=1, description="rows a query")
    radius: int | None = Field(None, ge=0, description="instead: all rows within this Hamming distance")
    rerank: int = Field(0, ge=0, description="nearest codes a query to rank again by their vectors; 0: none")
    asymmetric: bool = Field(False, description="keep the queries real-valued")

    @model_validator(mode="after")
    def _one_kind(self) -> Search:
        if self.radius is not None and (self.rerank or self.asymmetric):
            raise ValueError("expected a radius alone, found it with rerank or asymmetric")
        if 0 < self.rerank < self.k:
            raise ValueError(f"expected to rank again at least k = {self.k} rows, found {self.rerank}")
        return self

    @property
    def distance(self) -> str:
        """What the distances are."""
        if self.rerank:
            return "squared Euclidean"
        return "asymmetric Hamming" if self.asymmetric else "Hamming"


class SearchReport(Value):
    """What a search came to."""

    table: str
    version: str  # the one that was searched, whatever was published meanwhile
    distance: str
    queries: int
    rows: int  # of the results
    out: str
    seconds: float


@dataclass(frozen=True)
class Reader:
    """One version of a code table, with the model that made it: neither changes, whatever is published meanwhile."""

    table: str
    version: Version
    function: HashFunction
    shards: list[CodeShard]
    executor: Executor
    settings: Settings

    @property
    def rows(self) -> int:
        return sum(shard.part.rows for shard in self.shards)

    @property
    def dataset(self) -> Dataset:
        """The dataset that the rows come from."""
        return dataset_of(Spec.stored(self.version.properties["spec"]), self.settings)

    def search(self, x: Array, k: int = 10, rerank: int = 0, asymmetric: bool = False) -> tuple[Array, Array]:
        """The k rows nearest to each of x (q, d): distances and ids int64, both (q, k), by rising (distance, id).

        Distances are Hamming's, int32; asymmetric ones (see AsymmetricTopK) are float64; and where `rerank`
        nearest codes are ranked again by their vectors, squared Euclidean, float64. Of a version of fewer than k rows
        all are found, in as many columns. No row is left out, not even a query's own.
        Raises ValueError for queries of another dimension or not finite, and where vectors are not those encoded.
        """
        blocks = list(self.blocks(x, Search(k=k, rerank=rerank, asymmetric=asymmetric)))
        ids, distances = (np.concatenate([block[i] for block in blocks]).reshape(len(x), -1) for i in (1, 2))
        return distances, ids

    def within(self, x: Array, radius: int) -> tuple[Array, Array, Array]:
        """All rows within a Hamming radius of x (q, d): queries (positions in x), ids, distances, each (m,).

        Sorted by (query, distance, id). Raises ValueError as search does, and where one ball holds over 3 million rows.
        """
        blocks = list(self.blocks(x, Search(radius=radius)))
        queries, ids, distances = (np.concatenate([block[i] for block in blocks]) for i in range(3))
        return queries, ids, distances

    def blocks(self, x: Array, asked: Search) -> Iterator[tuple[Array, Array, Array]]:
        """What is found for x (q, d), by blocks of queries, so that no state is over 64 MiB.

        Of each block queries (positions in x), ids, distances, each (m,), sorted by (query, distance, id).
        """
        x, data = self._queries(x), Data(self.shards, self.executor)
        if asked.radius is not None:
            codes = self._codes(x)
            counts = data.reduce(CountWithin(codes, asked.radius), "count")
            for block in query_blocks(counts):
                queries, distances, ids = data.reduce(Within(codes[block], asked.radius), "search")
                yield queries + block.start, ids, distances
            return
        width = min(asked.rerank or asked.k, self.rows)
        if not width:
            yield (np.zeros(0, np.int64),) * 2 + (np.zeros(0),)
            return
        for block in query_blocks(np.full(len(x), width)):
            distances, ids = self._nearest(x[block], asked, width)
            yield np.repeat(np.arange(len(x))[block], ids.shape[1]), ids.ravel(), distances.ravel()

    def _nearest(self, x: Array, asked: Search, width: int) -> tuple[Array, Array]:
        statistic: Statistic[tuple[Array, Array], tuple[Array, Array]]
        statistic = AsymmetricTopK(self.function.project(x), width) if asked.asymmetric else TopK(self._codes(x), width)
        distances, ids = Data(self.shards, self.executor).reduce(statistic, "search")
        return self._rerank(x, ids, asked.k) if asked.rerank else (distances, ids)

    def _rerank(self, x: Array, candidates: Array, k: int) -> tuple[Array, Array]:
        """Candidates (q, R) by the distance of their vectors, the first k of them."""
        encoded = {shard.part.shard: shard.part for shard in self.shards}
        sought = np.unique(candidates)
        now = {shard.name: shard.version for shard in self.dataset.shards("base")}
        shards = [
            shard
            for shard in self.dataset.model_copy(update={"deleted": ()}).shards("base")
            if (part := encoded.get(shard.name))
            and (part.version == now[shard.name] or deletions.unmarked(part.version) == shard.version)
            and np.searchsorted(sought, part.min_id) < np.searchsorted(sought, part.max_id, "right")
        ]
        distances = np.full(candidates.shape, np.inf)
        if shards:
            distances = Data(shards, self.executor).reduce(CandidateDistances(x, candidates), "rerank")
        if (lost := np.unique(candidates[np.isinf(distances)])).size:
            raise ValueError(
                f"expected the vectors that {self.table} {self.version.name} was encoded from, found the shards of "
                f"{lost.size} rows changed or gone (row {lost[0]}, …): run reindex, or search without ranking again"
            )
        return first_k(distances, candidates, k)

    def _codes(self, x: Array) -> Array:
        return pack(self.function.encode(x))

    def _queries(self, x: Array) -> Array:
        if x.ndim != 2 or x.shape[1] != self.function.dim or not len(x):
            raise ValueError(f"expected queries (q, {self.function.dim}), at least one, found shape {x.shape}")
        with np.errstate(over="ignore"):  # told in one line
            x = np.asarray(x, np.float32)
        if not (finite := np.isfinite(x).all(axis=1)).all():
            raise ValueError(f"expected finite queries, found NaN or infinity in query {finite.argmin()}")
        return x


def open(table: str, version: str = "main", settings: Settings | None = None, progress: Progress = silent) -> Reader:
    """A reader of a version, by default the published one: the snapshot is looked up once, its model is the snapshot's.

    Raises LookupError where there is no such table or version, or it is empty.
    """
    settings = settings or Settings()
    opened = open_table(settings, table)
    found = opened.version(version)
    shards = [CodeShard(shard.part, shard.n_bits) for shard in opened.shards(found.snapshot_id)]  # without labels
    if not shards:
        raise LookupError(f"expected a version with rows, found {found.name} of {table}, which is empty")
    function = models.load_model(settings.warehouse_url, found.properties["model"])
    return Reader(opened.name, found, function, shards, connect(settings, progress), settings)


def search(
    table: str,
    queries: str,
    out: str,
    asked: Search | None = None,
    version: str = "main",
    progress: Progress = silent,
) -> SearchReport:
    """Search for all queries of a split or a file (see `read_queries`), and write what is found to a Parquet file.

    Its columns: query and id (int64), rank (int32, from 1), distance (int32 or float64, as of Reader.search). Its
    metadata name the table, the version, its snapshot and its model.
    """
    start, asked = time.monotonic(), asked or Search()
    reader = open(table, version, progress=progress)
    batch = read_queries(reader.dataset, queries)
    properties = reader.version.properties
    about = {
        "table": reader.table,
        "version": reader.version.name,
        "snapshot": str(reader.version.snapshot_id),
        "model": properties["model"],
        "search": asked.model_dump_json(),
        "distance": asked.distance,
    }
    blocks = ((batch.ids[positions], ids, distances) for positions, ids, distances in reader.blocks(batch.x, asked))
    rows = results.write_found(filesystem.absolute(out), blocks, about)
    return SearchReport(
        table=reader.table,
        version=reader.version.name,
        distance=asked.distance,
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
    """A split of the dataset, or else a file: .fvecs, .bvecs, .npy (q, d), or Parquet with the dataset's columns.

    All are held in memory. Queries of files without ids are 2^41, 2^41 + 1, …, as those that are ingested.
    """
    suffix = Path(source.removesuffix(".gz")).suffix
    if source not in dataset.splits and suffix in (".npy", *VECTOR_FILES):
        path = filesystem.absolute(source)
        x = npy.read_npy(path) if suffix == ".npy" else np.concatenate(list(vecs.read_vecs(path)))
        if x.ndim != 2 or x.dtype.kind not in "fiu":
            raise ValueError(f"{source}: expected queries (q, d) of numbers, found {x.shape} {x.dtype}")
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
