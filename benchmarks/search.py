"""Search in a table in memory compared with Faiss, on one core, in one run.

    HASHKILN_DATA=… python benchmarks/search.py [--bits 64] [--repeats 21]

photosift: 1,000,000 rows of 128 dimensions, encoded by ITQ. Hashkiln searches by vectors and returns ids; its time
includes encoding the queries. Faiss searches by codes with IndexBinaryFlat, and returns positions. The two alternate.
Times are thread times of one call, and the table shows medians and the median ratio of consecutive calls. For a
re-ranked search, Faiss's part is IndexBinaryFlat followed by numpy over an array of all vectors; for a filter, it is an
IndexBinaryFlat of the selected rows, made for the call.
"""

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import versions

from hashing.bits import pack
from hashing.mapreduce import Data, one_blas_thread
from hashing.methods.itq import ITQ
from infra.executors import InProcess
from infra.settings import Settings
from storage.tables.parts import CodeShard, encode_shard
from storage.tables.resident import ResidentRows
from storage.tables.table import Version
from workflows.datasets import ingest
from workflows.reader import Reader
from workflows.spec import Spec


def seconds(run: Callable[[], object]) -> float:
    start = time.thread_time()  # both run on the thread that calls
    run()
    return time.thread_time() - start


def report(case: str, ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> None:
    ours()
    theirs()
    runs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    mine, peer = (1000 * statistics.median(column) for column in zip(*runs, strict=True))
    ratio = statistics.median(b / a for a, b in runs)
    print(f"| {case} | {mine:.2f} | {peer:.2f} | {ratio:.1f} |", flush=True)


def reranked(index: faiss.IndexBinaryFlat, vectors: np.ndarray, code: np.ndarray, x: np.ndarray) -> np.ndarray:
    candidates = index.search(code, 100)[1][0]
    return candidates[np.argsort(((vectors[candidates] - x) ** 2).sum(axis=1))[:10]]


def among(database: np.ndarray, mask: np.ndarray, code: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero(mask)
    index = faiss.IndexBinaryFlat(8 * database.shape[1])
    index.add(np.take(database, rows, axis=0))
    return rows[index.search(code, 10)[1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=21)
    options = parser.parse_args()
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
        vectors, _ = resident.map_vectors(dataset)
        mapped = time.thread_time()
        version = Version("v1", 0, 0, {"spec": Spec(dataset="photosift").model_dump_json()})
        reader = Reader("t", version, (), function, shards, InProcess(), settings, resident)
        x = np.concatenate([batch.x for shard in dataset.shards("query") for batch in shard])
        index = faiss.IndexBinaryFlat(options.bits)
        index.add(resident.batch.x)
        codes = pack(function.encode(x))
        np.testing.assert_array_equal(reader.search(x[:100], 10)[0], index.search(codes[:100], 10)[0])
        print(
            f"{reader.rows:,} rows, {options.bits} bits, one core, medians of {options.repeats};",
            versions.line("numba", "faiss-cpu"),
        )
        print(f"read codes and ids: {opened - begin:.2f} s; map vectors: {mapped - opened:.2f} s;", end=" ")
        print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB\n")
        print("| search | Hashkiln, ms | Faiss, ms | ratio |\n|---|---|---|---|")
        case = partial(report, repeats=options.repeats)
        with one_blas_thread():
            for q in (1, 10, 100, 1000):
                case(
                    f"{q:,} {'query' if q == 1 else 'queries'}, k = 10",
                    partial(reader.search, x[:q], 10),
                    partial(index.search, codes[:q], 10),
                )
            case(
                "1 query, k = 10 of 100 reranked",
                partial(reader.search, x[:1], 10, rerank=100),
                partial(reranked, index, vectors, codes[:1], x[:1]),
            )
            for share in (0.01, 0.5):
                mask = np.random.default_rng(0).random(reader.rows) < share
                case(
                    f"1 query, k = 10 among {share:.0%} of the rows",
                    partial(reader.search, x[:1], 10, where=mask),
                    partial(among, resident.batch.x, mask, codes[:1]),
                )


if __name__ == "__main__":
    main()
