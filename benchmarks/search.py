"""How fast is search in a table in memory, on one core?

    HASHKILN_DATA=… python benchmarks/search.py [--bits 64] [--repeats 21]

photosift: 1,000,000 rows of 128 dimensions, encoded by ITQ. Hashkiln searches by vectors and returns ids; its time
includes encoding the queries. Faiss searches by codes with IndexBinaryFlat, and returns positions. Times are thread
times of one call. For a reranked search, Faiss's part is IndexBinaryFlat followed by numpy over an array of all
vectors; for a filter, it is an IndexBinaryFlat of the selected rows, made for the call. The limit is reading the codes
from memory once, or their population counts if that takes longer.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import faiss
import measure
import numpy as np

from hashing.bits import pack
from hashing.blas import one_blas_thread
from hashing.mapreduce import Data
from hashing.methods.itq import ITQ
from infra.executors import InProcess
from infra.settings import Settings
from storage.tables.parts import CodeShard, encode_shard
from storage.tables.resident import ResidentRows
from storage.tables.table import Version
from workflows.datasets import ingest
from workflows.reader import Reader
from workflows.spec import Spec


def reranked(index: faiss.IndexBinaryFlat, vectors: np.ndarray, code: np.ndarray, x: np.ndarray) -> np.ndarray:
    candidates = index.search(code, 100)[1][0]
    return candidates[np.argsort(((vectors[candidates] - x) ** 2).sum(axis=1))[:10]]


def among(database: np.ndarray, mask: np.ndarray, code: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(mask)
    index = faiss.IndexBinaryFlat(8 * database.shape[1])
    index.add(np.take(database, rows, axis=0))
    return rows[index.search(code, 10)[1]]


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder), data=Settings().data)
        dataset = ingest(Spec(dataset="photosift"), settings)
        function = ITQ(options.bits).fit(Data(dataset.shards("learn"), InProcess()))
        parts = [encode_shard(shard, function, folder) for shard in dataset.shards("base")]
        shards = [CodeShard(part, options.bits) for part in parts]
        begin = time.thread_time()
        resident = ResidentRows(shards)
        opened = time.thread_time()
        version = Version("v1", 0, 0, {"spec": Spec(dataset="photosift").model_dump_json()})
        reader = Reader("t", version, (), function, shards, InProcess(), settings, resident)
        x = np.concatenate([batch.x for shard in dataset.shards("query") for batch in shard])
        first = []
        for i in range(len(x) - 21, len(x)):
            start = time.thread_time()
            reader.search(x[i : i + 1], 10, rerank=100)
            first.append(time.thread_time() - start)
        vectors = resident.cache_vectors(dataset)
        vectors.read_all()
        index = faiss.IndexBinaryFlat(options.bits)
        index.add(resident.batch.x)
        codes = pack(function.encode(x))
        np.testing.assert_array_equal(reader.search(x[:100], 10)[0], index.search(codes[:100], 10)[0])
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        note = f"peak memory with Faiss's {memory:.1f} GiB"
        yield measure.row(f"open {reader.rows:,} rows", {"ours": [opened - begin]}, "s", note=note)
        yield measure.row("first reranked query", {"ours": first[:1]}, "ms", 1000, note="reads pages of the source")
        yield measure.row("next 20 reranked queries, each", {"ours": first[1:]}, "ms", 1000, note="the same")
        reading, counts = resident.batch.x.nbytes / measure.read_rate(), measure.popcounts(options.bits)

        def case(name: str, q: int, ours: object, peer: object) -> measure.Row:
            seconds = measure.in_turns({"ours": ours, "peer": peer}, options.repeats if q < 1000 else 3)
            limit = 1000 * max(reading, q * reader.rows / counts if counts else 0)
            return measure.row(f"{q:,} {'query' if q == 1 else 'queries'}, {name}", seconds, "ms", 1000, limit)

        with one_blas_thread():
            for q in (1, 10, 100, 1000):
                yield case("k = 10", q, partial(reader.search, x[:q], 10), partial(index.search, codes[:q], 10))
            yield case(
                "k = 10 of 100 reranked", 1,
                partial(reader.search, x[:1], 10, rerank=100), partial(reranked, index, vectors.x, codes[:1], x[:1]),
            )  # fmt: skip
            for share in (0.01, 0.5):
                mask = np.random.default_rng(0).random(reader.rows) < share
                yield case(
                    f"k = 10 among {share:.0%} of the rows", 1,
                    partial(reader.search, x[:1], 10, where=mask), partial(among, resident.batch.x, mask, codes[:1]),
                )  # fmt: skip


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
    peer, limit = "Faiss IndexBinaryFlat", "reading the codes from memory once, or their population counts"
    measure.run(__doc__, options, measured(options), peer=peer, limit=limit, packages=("numba", "faiss-cpu"))


if __name__ == "__main__":
    main()
