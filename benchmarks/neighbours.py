"""Exact ground truth compared with Faiss's IndexFlatL2, one core each, in one run.

    HASHKILN_DATA=... python benchmarks/neighbours.py [--queries 10000] [--shards 1] [--repeats 3]

The 100 nearest of photosift's 1,000,000 base vectors for each of its queries. Hashkiln: the statistic over shards, from
the uint8 values of the files, exact in float64. Faiss: from float32 values in its index, in float32. Every shard starts
without a bound, so more shards mean more candidates; `reindex` splits these rows into 8 shards. The two alternate. The
ids are compared with groundtruth.ivecs. The physical limit is the matrix product that both start with; its time is
shown as well. Seconds are thread time.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import versions

from hashing.mapreduce import Batch, Data, one_blas_thread
from hashing.neighbours.exact import NearestNeighbours
from infra.executors import InProcess
from infra.settings import Settings
from storage import datasets

BATCH, TILE = 32768, 1024  # rows per batch, as in storage.features; rows and queries per product


def read(files: dict, split: str) -> np.ndarray:
    return np.concatenate([block.x for block in datasets.read_split(datasets.get("photosift"), split, files)])


def cut(x: np.ndarray, n_shards: int) -> list[list[Batch]]:
    parts = np.array_split(np.arange(len(x)), n_shards)
    return [[Batch(part[i : i + BATCH], x[part[i : i + BATCH]]) for i in range(0, len(part), BATCH)] for part in parts]


def product(queries: np.ndarray, base: np.ndarray) -> None:
    out = np.empty((TILE, TILE), np.float32)
    with one_blas_thread():
        for i in range(0, len(queries), TILE):
            for j in range(0, len(base), TILE):
                some, rows = queries[i : i + TILE], base[j : j + TILE]
                np.matmul(some, rows.T, out=out[: len(some), : len(rows)])


def timed(run: Callable[[], object]) -> tuple[float, object]:
    start = time.thread_time()
    result = run()
    return time.thread_time() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    photosift = datasets.get("photosift")
    files = datasets.locate_or_fetch(photosift, Settings().data_folder)
    base, queries = read(files, "base"), read(files, "query")[: options.queries].astype(np.float32)
    truth = datasets.read_groundtruth(photosift, files)[: options.queries]
    data, k = Data(cut(base, options.shards), InProcess()), truth.shape[1]
    statistic = NearestNeighbours(queries, np.arange(-len(queries), 0), k)
    index = faiss.IndexFlatL2(base.shape[1])
    index.add(base.astype(np.float32))
    few = NearestNeighbours(queries[:9], statistic.ids[:9], k)
    Data(data.shards[:2], InProcess()).reduce(few)  # compiles the kernels
    ways = {
        "Hashkiln": lambda: data.reduce(statistic),
        "Faiss IndexFlatL2": lambda: index.search(queries, k),
        "matrix product only": lambda: product(queries, base.astype(np.float32)),
    }
    seconds = {name: [] for name in ways}
    for _ in range(options.repeats):
        results = {}
        for name, way in ways.items():
            elapsed, results[name] = timed(way)
            seconds[name].append(elapsed)
    ids, distances = results["Hashkiln"]
    pairs = len(queries) * len(base)
    print(f"{len(queries):,} x {len(base):,} x {base.shape[1]}, k = {k}, one core, {options.shards} shards,", end=" ")
    print(f"median of {options.repeats}; {versions.line('numba', 'faiss-cpu')}\n\n| | s | Gpair/s |\n|---|---|---|")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"| {name} | {median:.1f} | {pairs / median / 1e9:.2f} |")
    ratios = [ours / theirs for ours, theirs in zip(seconds["Hashkiln"], seconds["Faiss IndexFlatL2"], strict=True)]
    spread = f"from {min(ratios):.2f} to {max(ratios):.2f}"
    print(f"\nratio of times, Hashkiln to Faiss: {statistics.median(ratios):.2f}, {spread}")
    print(f"ids equal to groundtruth.ivecs: {(ids == truth).all()}")
    print(f"distances equal to Faiss's: {(distances == results['Faiss IndexFlatL2'][0]).mean():.2%}")
    print(f"ids equal to Faiss's: {(ids == results['Faiss IndexFlatL2'][1]).mean():.2%}")


if __name__ == "__main__":
    main()
