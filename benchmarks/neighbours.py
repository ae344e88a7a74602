"""How fast is the exact ground truth by Euclidean distance, on one core?

    HASHKILN_DATA=... python benchmarks/neighbours.py [--queries 1000] [--shards 1] [--repeats 3] [--full]

The 100 nearest of photosift's 1,000,000 base vectors for each of its queries (10,000 with --full). Hashkiln: the
statistic over shards, from the uint8 values of the files, exact in float64. Faiss: from float32 values in its index, in
float32. Every shard starts without a bound, so more shards mean more candidates; `reindex` splits these rows into 8
shards. The ids are compared with groundtruth.ivecs. Time is thread time.
"""

import argparse
from collections.abc import Iterator

import faiss
import measure
import numpy as np

from hashing.blas import one_blas_thread
from hashing.mapreduce import Batch, Data
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


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    faiss.omp_set_num_threads(1)
    photosift, n = datasets.get("photosift"), 10_000 if options.full else options.queries
    files = datasets.locate_or_fetch(photosift, Settings().data_folder)
    base, queries = read(files, "base"), read(files, "query")[:n].astype(np.float32)
    truth = datasets.read_groundtruth(photosift, files)[:n]
    data, k = Data(cut(base, options.shards), InProcess()), truth.shape[1]
    statistic = NearestNeighbours(queries, np.arange(-len(queries), 0), k)
    index, wide = faiss.IndexFlatL2(base.shape[1]), base.astype(np.float32)
    index.add(wide)
    ids, distances = data.reduce(statistic)
    same = (distances == index.search(queries, k)[0]).mean()
    seconds = measure.in_turns(
        {
            "ours": lambda: data.reduce(statistic),
            "peer": lambda: index.search(queries, k),
            "limit": lambda: product(queries, wide),
        },
        options.repeats,
    )
    case = f"{len(queries):,} x {len(base):,} x {base.shape[1]}, k={k}, {options.shards} shards"
    note = f"ids equal to groundtruth.ivecs: {(ids == truth).all()}; distances equal to Faiss's: {same:.2%}"
    yield measure.row(case, seconds, "Gpair/s", len(queries) * len(base) / 1e9, note=note)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    limit, packages = "the matrix product of queries and rows, which both start with", ("numba", "faiss-cpu")
    measure.run(__doc__, options, measured(options), peer="Faiss IndexFlatL2", limit=limit, packages=packages)


if __name__ == "__main__":
    main()
