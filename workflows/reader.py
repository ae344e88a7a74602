"""Search one version of a code table with its model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from hashing.bits import pack
from hashing.evaluation.by_score import NearestByScore
from hashing.functions import HashFunction
from hashing.mapreduce import Array, Data, Executor, Metric
from hashing.names import counted
from hashing.neighbours.candidates import AsymmetricTopK, CountWithin, TopK, Within, query_blocks
from hashing.neighbours.exact import MEASURED, first_k, vector_distances
from hashing.neighbours.multi_index import MultiIndex
from hashing.neighbours.reranking import CandidateDistances
from hashing.quantizers.contract import Quantizer
from infra.settings import Settings
from storage.features import keys
from storage.features.dataset import Dataset
from storage.tables.parts import CodeShard
from storage.tables.resident import ResidentRows
from storage.tables.table import Version
from storage.tables.vectors import unchanged_source

from .arrays import as_vectors, float32
from .ingested import dataset_of
from .spec import Spec, Value, valid

ESTIMATED = 256  # queries ranked by estimates at a time: with more, few rows would be ranked at a time


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

    def distance(self, metric: Metric, function: HashFunction) -> str:
        """Return the name of the distance, for codes of a function of vectors that are compared by a metric."""
        if self.rerank:
            return MEASURED[metric]
        if isinstance(function, Quantizer):
            return function.estimate_of(metric, self.asymmetric)
        return "asymmetric Hamming" if self.asymmetric else "Hamming"


@dataclass(frozen=True)
class Reader:
    """One version of a code table and its model. Later publications do not affect it. Threads may share it.

    Created by `hashkiln.open`. `function` is the model, which `hashkiln.Hasher` accepts.

    Examples
    --------
    >>> import hashkiln
    >>> table = hashkiln.open("sample__lsh8")
    >>> table.version.name, table.rows, table.function.n_bits
    ('v1', 40000, 8)
    >>> queries, ids, distances = table.within([[0.0] * 128], radius=2)
    >>> bool((distances <= 2).all())
    True
    """

    table: str
    version: Version
    vocabulary: tuple[str | int, ...]  # the labels
    function: HashFunction
    shards: list[CodeShard]
    executor: Executor  # reads the parts for each search, unless they are resident
    settings: Settings
    resident: ResidentRows | None = None
    index: MultiIndex | None = None  # of the codes in memory

    def __repr__(self) -> str:
        codes = f"{counted(self.rows, 'row')}, {self.function.n_bits} bits"
        return f"Reader({self.table}, {self.version.name}: {codes})"  # without its parts, properties and matrices

    @cached_property
    def rows(self) -> int:
        return sum(shard.part.rows for shard in self.shards)

    @property
    def ids(self) -> Array:
        """The ids (n,) int64 of the rows, in increasing order. Raises ValueError unless they are resident."""
        return self._in_memory("ids").batch.ids

    def keys(self, ids: Array) -> Array:
        """Return the keys of rows, in an array of str or bytes with the shape of their ids (int64).

        Raises ValueError if the rows of the dataset have no keys, or for an id that the dataset does not have.
        """
        if not (folder := self.dataset.keys):
            raise ValueError(f"expected a dataset with keys, found integer ids in {self.dataset.name}")
        ids = np.asarray(ids, np.int64)
        names: Array = keys.keys_of(folder, ids.ravel()).to_numpy(zero_copy_only=False).astype(object)
        return names.reshape(ids.shape)

    @property
    def dataset(self) -> Dataset:
        """The dataset that the rows come from."""
        return dataset_of(Spec.stored(self.version.properties["spec"]), self.settings)

    @cached_property
    def _metric(self) -> Metric:
        return self.dataset.distance

    def search(
        self, x: Any, k: int = 10, rerank: int = 0, asymmetric: bool = False, where: Any = None
    ) -> tuple[Array, Array]:
        """Find the k rows nearest to each query, exactly. A query that is also a row finds itself.

        Parameters
        ----------
        x : array-like, shape (q, d)
            Queries: vectors of numbers.
        k : int, default 10
            Number of rows to find for each query.
        rerank : int, default 0
            Number of nearest codes to rerank by the distance of their vectors, by the dataset's metric; 0: off. Their
            vectors are read from the source, and kept in a temporary file for other queries.
        asymmetric : bool, default False
            Compare real-valued queries with binary codes; see `hashing.neighbours.candidates.AsymmetricTopK`. For a
            quantizer: estimate distances from queries that are not rounded to 4 bits.
        where : label, list of labels, or ndarray of bool, shape (rows,), optional
            Search only rows that have one of the labels, or only rows that are True, in the order of `ids`.

        Returns
        -------
        distances : ndarray, shape (q, min(k, rows))
            In increasing order: int32 Hamming distances; float64 if asymmetric. If reranked, float64: squared Euclidean
            distances, or by the dataset's metric 1 - cosine, or the negative inner product. For a quantizer, float64:
            estimates of these.
        ids : ndarray of int64, shape (q, min(k, rows))
            Rows at equal distance are sorted by id.

        Raises
        ------
        ValueError
            If the queries have the wrong dimension or are not finite, if k or rerank is out of range, if a label is
            unknown, or if the source vectors have changed since they were encoded.
        """
        blocks = list(self.blocks(x, valid(Search, k=k, rerank=rerank, asymmetric=asymmetric), where))
        ids, distances = (np.concatenate([block[i] for block in blocks]).reshape(len(x), -1) for i in (1, 2))
        return distances, ids

    def within(self, x: Any, radius: int, where: Any = None) -> tuple[Array, Array, Array]:
        """Find all rows within a Hamming radius of each query.

        Parameters
        ----------
        x : array-like, shape (q, d)
            Queries: vectors of numbers.
        radius : int
            Largest distance.
        where : optional
            Search only some rows, as in `search`.

        Returns
        -------
        queries, ids, distances : ndarray of int64, int64 and int32, each of shape (m,)
            The position in x of each row found, its id and its distance, sorted by (query, distance, id).

        Raises
        ------
        ValueError
            As `search` does, if the radius is not from 0 to the number of bits, and if a query finds over 3 million
            rows.
        """
        if radius is None:  # means a search for the k nearest in `Search`
            raise ValueError("radius: expected an integer, found None")
        blocks = list(self.blocks(x, valid(Search, radius=radius), where))
        queries, ids, distances = (np.concatenate([block[i] for block in blocks]) for i in range(3))
        return queries, ids, distances

    def blocks(self, x: Any, asked: Search, where: Any = None) -> Iterator[tuple[Array, Array, Array]]:
        """Yield the results for x (q, d) in blocks of queries, so that no state exceeds 64 MiB.

        Each block has queries (positions in x), ids and distances, each (m,), sorted by (query, distance, id).
        """
        metric = self.function.metric or (self._metric if asked.rerank else "")
        x, data, rows = self._queries(x, metric), *self._data(where)
        index = self.index if where is None else None
        if asked.radius is not None:
            if isinstance(self.function, Quantizer):
                raise ValueError(
                    f"radius: the rows of {self.table} are ranked by {self.function.name}'s estimates, which have no "
                    "Hamming radius: search for the k nearest"
                )
            if asked.radius > self.function.n_bits:
                raise ValueError(f"radius: expected at most {self.function.n_bits} bits, found {asked.radius}")
            codes, radius = self._codes(x), asked.radius
            counts = index.count_within(codes, radius) if index else data.reduce(CountWithin(codes, radius), "count")
            for block in query_blocks(counts):
                if index:
                    found = index.within(codes[block], radius)
                else:
                    found = data.reduce(Within(codes[block], radius), "search")
                yield found[0] + block.start, found[2], found[1]
            return
        width = min(asked.rerank or asked.k, rows)
        if not width:
            yield (np.zeros(0, np.int64),) * 2 + (np.zeros(0),)
            return
        step = ESTIMATED if isinstance(self.function, Quantizer) else len(x)
        for block in query_blocks(np.full(len(x), width)):
            for start in range(block.start, block.stop, step):
                some = slice(start, min(start + step, block.stop))
                distances, ids = self._nearest(x[some], asked, width, data, index)
                yield np.repeat(np.arange(len(x))[some], ids.shape[1]), ids.ravel(), distances.ravel()

    def _data(self, where: Any) -> tuple[Data, int]:
        """Return the codes to search, and the number of rows."""
        if not self.resident and where is None:
            return Data(self.shards, self.executor), self.rows
        batch = self._in_memory("where").batch
        if where is not None:
            batch = batch.take(self._chosen(where))
        return Data([[batch]], self.executor), len(batch.ids)

    def _chosen(self, where: Any) -> Array:
        """Return the positions of the rows that a filter selects."""
        if isinstance(where, np.ndarray) and where.dtype == bool:
            if where.shape != (self.rows,):
                raise ValueError(f"where: expected bool ({self.rows},), one for each of `ids`, found {where.shape}")
            return np.flatnonzero(where)
        values: list[Any] = [where] if isinstance(where, str | int | np.integer) else list(where)
        places: dict[Any, int] = {label: place for place, label in enumerate(self.vocabulary)}
        if unknown := [value for value in values if value not in places]:
            some = ", ".join(map(repr, self.vocabulary[:5])) or "none"
            raise ValueError(f"where: expected labels of {self.table} ({some}, …), found {unknown[0]!r}")
        return self._in_memory("where").with_labels([places[value] for value in values])

    def _in_memory(self, what: str) -> ResidentRows:
        if not self.resident:
            raise ValueError(f"{what}: expected rows in memory: open {self.table} with resident=True")
        return self.resident

    def _nearest(
        self, x: Array, asked: Search, width: int, data: Data, index: MultiIndex | None
    ) -> tuple[Array, Array]:
        if isinstance(self.function, Quantizer):
            estimator = self.function.estimator(x, self._metric, asked.asymmetric)
            distances, ids = data.reduce(NearestByScore(estimator, len(x), width), "search")
            distances = distances.astype(np.float64)
        elif asked.asymmetric:
            distances, ids = data.reduce(AsymmetricTopK(self.function.project(x), width), "search")
        elif index:
            distances, ids = index.topk(self._codes(x), width)
        else:
            distances, ids = data.reduce(TopK(self._codes(x), width, sorted_ids=bool(self.resident)), "search")
        return self._rerank(x, ids, asked.k) if asked.rerank else (distances, ids)

    def _rerank(self, x: Array, candidates: Array, k: int) -> tuple[Array, Array]:
        """Return the k nearest candidates (q, R) by the distance of their vectors."""
        if self.resident:
            vectors = self.resident.vectors or self.resident.cache_vectors(self.dataset)
            rows = self.resident.part_rows(self.resident.positions(candidates.ravel()))
            is_encoded = vectors.read(rows)
            queries = np.repeat(np.arange(len(x)), candidates.shape[1])
            distances = vector_distances(x, vectors.x, queries, rows, self._metric)
            distances[~is_encoded] = np.inf
            distances = distances.reshape(candidates.shape)
        else:
            distances = self._read_distances(x, candidates)
        if (lost := np.unique(candidates[np.isinf(distances)])).size:
            row = keys.names_of(self.dataset.keys, lost[:1])[0]
            raise ValueError(
                f"cannot rerank {self.table} {self.version.name}: the source of {lost.size} rows has changed or was "
                f"removed (row {row}, …): run reindex, or search without reranking"
            )
        return first_k(distances, candidates, k)

    def _read_distances(self, x: Array, candidates: Array) -> Array:
        """Return the distances (q, R) of the candidates, inf where the source has changed."""
        sought, source = np.unique(candidates), unchanged_source(self.shards, self.dataset)
        shards = [
            source[part.shard]
            for part in (shard.part for shard in self.shards)
            if part.shard in source
            and np.searchsorted(sought, part.min_id) < np.searchsorted(sought, part.max_id, "right")
        ]
        if not shards:
            return np.full(candidates.shape, np.inf)
        return Data(shards, self.executor).reduce(CandidateDistances(x, candidates, self._metric), "rerank")

    def _codes(self, x: Array) -> Array:
        return pack(self.function.encode(x))

    def read_vectors(self) -> None:
        """Read the vectors of all rows, so that reranking does not need the source any more. See docs/serving.md."""
        self._in_memory("read_vectors").cache_vectors(self.dataset).read_all()

    def _queries(self, given: Any, metric: str) -> Array:
        x = as_vectors("queries", given, self.function.dim, metric)
        if not len(x):
            raise ValueError("queries: expected at least one, found none")
        return float32(x)
