"""Search one version of a code table with its model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import Field, model_validator

from hashing.bits import pack
from hashing.functions import HashFunction
from hashing.mapreduce import Array, Data, Executor, Statistic
from hashing.neighbours.candidates import AsymmetricTopK, CountWithin, TopK, Within, query_blocks
from hashing.neighbours.exact import first_k
from hashing.neighbours.reranking import CandidateDistances
from infra.executors import Progress, connect, silent
from infra.settings import Settings
from storage import models
from storage.features import deletions
from storage.features.dataset import Dataset
from storage.tables.parts import CodeShard
from storage.tables.table import Version

from .context import open_version
from .datasets import dataset_of
from .spec import Spec, Value


class Search(Value):
    """The options of a search."""

    k: int = Field(10, ge=1, description="number of rows per query")
    radius: int | None = Field(
        None, ge=0, description="find all rows within this Hamming distance, instead of the k nearest"
    )
    rerank: int = Field(0, ge=0, description="number of nearest codes to rerank by their vectors; 0: off")
    asymmetric: bool = Field(False, description="compare real-valued queries with binary codes")

    @model_validator(mode="after")
    def _one_kind(self) -> Search:
        if self.radius is not None and (self.rerank or self.asymmetric):
            raise ValueError("radius cannot be combined with rerank or asymmetric")
        if 0 < self.rerank < self.k:
            raise ValueError(f"rerank must be 0 or at least k = {self.k}, found {self.rerank}")
        return self

    @property
    def distance(self) -> str:
        """The name of the distance."""
        if self.rerank:
            return "squared Euclidean"
        return "asymmetric Hamming" if self.asymmetric else "Hamming"


@dataclass(frozen=True)
class Reader:
    """One version of a code table and its model. Later publications do not affect it.

    Created by `hashkiln.open`. `function` is the model, which `hashkiln.Hasher` accepts.
    """

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
        """Find the k rows nearest to each query, exactly. A query that is also a row finds itself.

        Parameters
        ----------
        x : ndarray, shape (q, d)
            Queries: vectors of numbers.
        k : int, default 10
            Rows for each query.
        rerank : int, default 0
            Number of nearest codes to rerank by the Euclidean distance of their vectors; 0: off.
        asymmetric : bool, default False
            Compare real-valued queries with binary codes; see `hashing.neighbours.candidates.AsymmetricTopK`.

        Returns
        -------
        distances : ndarray, shape (q, min(k, rows))
            In increasing order: int32 Hamming distances; float64 if asymmetric; float64 squared Euclidean distances if
            reranked.
        ids : ndarray of int64, shape (q, min(k, rows))
            Rows at equal distance are sorted by id.

        Raises
        ------
        ValueError
            If the queries have the wrong dimension or are not finite, if k or rerank is out of range, or if the source
            vectors have changed since they were encoded.
        """
        blocks = list(self.blocks(x, Search(k=k, rerank=rerank, asymmetric=asymmetric)))
        ids, distances = (np.concatenate([block[i] for block in blocks]).reshape(len(x), -1) for i in (1, 2))
        return distances, ids

    def within(self, x: Array, radius: int) -> tuple[Array, Array, Array]:
        """Find all rows within a Hamming radius of each query.

        Parameters
        ----------
        x : ndarray, shape (q, d)
            Queries: vectors of numbers.
        radius : int
            Largest distance.

        Returns
        -------
        queries, ids, distances : ndarray of int64, int64 and int32, each of shape (m,)
            The position in x of each row found, its id and its distance, sorted by (query, distance, id).

        Raises
        ------
        ValueError
            As `search` does, and if a query finds over 3 million rows.
        """
        blocks = list(self.blocks(x, Search(radius=radius)))
        queries, ids, distances = (np.concatenate([block[i] for block in blocks]) for i in range(3))
        return queries, ids, distances

    def blocks(self, x: Array, asked: Search) -> Iterator[tuple[Array, Array, Array]]:
        """Yield the results for x (q, d) in blocks of queries, so that no state exceeds 64 MiB.

        Each block has queries (positions in x), ids and distances, each (m,), sorted by (query, distance, id).
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
        """Return the k nearest candidates (q, R) by the distance of their vectors."""
        encoded = {shard.part.shard: shard.part for shard in self.shards}
        sought = np.unique(candidates)
        now = {shard.name: shard.version for shard in self.dataset.shards("base")}
        shards = [
            shard
            for shard in self.dataset.model_copy(update={"deleted": ()}).shards("base")
            if (part := encoded.get(shard.name))
            and (part.version == now[shard.name] or deletions.without_suffix(part.version) == shard.version)
            and np.searchsorted(sought, part.min_id) < np.searchsorted(sought, part.max_id, "right")
        ]
        distances = np.full(candidates.shape, np.inf)
        if shards:
            distances = Data(shards, self.executor).reduce(CandidateDistances(x, candidates), "rerank")
        if (lost := np.unique(candidates[np.isinf(distances)])).size:
            raise ValueError(
                f"cannot rerank {self.table} {self.version.name}: the source of {lost.size} rows has changed or was "
                f"removed (row {lost[0]}, …): run reindex, or search without reranking"
            )
        return first_k(distances, candidates, k)

    def _codes(self, x: Array) -> Array:
        return pack(self.function.encode(x))

    def _queries(self, x: Array) -> Array:
        if x.ndim != 2 or x.shape[1] != self.function.dim or not len(x):
            raise ValueError(f"expected queries (q, {self.function.dim}), at least one, found shape {x.shape}")
        with np.errstate(over="ignore"):  # reported below
            x = np.asarray(x, np.float32)
        if not (finite := np.isfinite(x).all(axis=1)).all():
            raise ValueError(f"expected finite queries, found NaN or infinity in query {finite.argmin()}")
        return x


def open(table: str, version: str = "main", settings: Settings | None = None, progress: Progress = silent) -> Reader:
    """Open a version of a code table for searching. Later publications do not affect it.

    Parameters
    ----------
    table : str
        Name of the table, such as products__itq64.
    version : str, default "main"
        main (the published version), v3, staged-… or rejected-….
    settings : Settings, optional
        Catalog and warehouse; by default from the environment.
    progress : callable, optional
        Called with a label, the number of finished tasks and their total during a search.

    Returns
    -------
    Reader

    Raises
    ------
    LookupError
        If there is no such table or version, or it is empty.

    Examples
    --------
    >>> import numpy as np
    >>> import hashkiln
    >>> table = hashkiln.open("sample__lsh8")  # as `hashkiln.reindex` published it
    >>> table.rows
    40000
    >>> distances, ids = table.search(np.zeros((2, table.function.dim)), k=5)
    >>> distances.shape, ids.dtype
    ((2, 5), dtype('int64'))
    """
    settings = settings or Settings()
    opened, found = open_version(settings, table, version)
    shards = [CodeShard(shard.part, shard.n_bits) for shard in opened.shards(found.snapshot_id)]  # without labels
    function = models.load_model(settings.warehouse_url, found.properties["model"])
    return Reader(opened.name, found, function, shards, connect(settings, progress), settings)
