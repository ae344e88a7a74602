"""The exact multi-index compared with a scan and with Faiss's indexes of binary codes, on one core, in one run.

    HASHKILN_DATA=… python benchmarks/multi_index.py [--rows 10000000] [--queries 100] [--hnsw]

Codes of 64 bits: uniformly random ones; and those of photosift by ITQ, of the base vectors and of copies of them with
Gaussian noise of a tenth of the standard deviation, up to the number of rows. Queries are photosift's own. Times are
thread times a query, of one call for each query and of one call for all. The recall of the 10 nearest counts a row as
found if its distance is at most that of the exact 10th; the multi-index and the scan are exact and compared. Random
codes are the hardest case: nothing is near. HNSW takes long to build.
"""

import argparse
import time
from collections.abc import Callable

import faiss
import numpy as np
import versions

from hashing.bits import pack
from hashing.hamming import scan
from hashing.hamming.multi_index import MultiIndex
from hashing.mapreduce import Batch, Data
from hashing.methods.itq import ITQ
from infra.executors import InProcess
from infra.settings import Settings
from storage import datasets

Search = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def seconds(run: Callable[[], object]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def report(name: str, search: Search, queries: np.ndarray, kth: np.ndarray | None, build: float) -> None:
    search(queries[:1])
    single = np.median([seconds(lambda i=i: search(queries[i : i + 1])) for i in range(len(queries))])
    together = seconds(lambda: search(queries)) / len(queries)
    recall = "" if kth is None else f"{(search(queries)[0] <= kth[:, None]).mean():.3f}"
    print(f"| {name} | {build:.1f} | {1e6 * single:.0f} | {1e6 * together:.0f} | {recall} |", flush=True)


def photosift(rows: int, n_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of the queries and of the base, with noisy copies."""
    dataset = datasets.get("photosift")
    files = datasets.locate_or_fetch(dataset, Settings().data_folder)
    learn = [Batch(block.ids, block.x.astype(np.float32)) for block in datasets.read_split(dataset, "learn", files)]
    function, rng = ITQ(64).fit(Data([learn], InProcess())), np.random.default_rng(0)
    read = (datasets.read_split(dataset, split, files) for split in ("query", "base"))
    queries, base = (np.concatenate([block.x for block in split]).astype(np.float32) for split in read)
    codes, noise = [pack(function.encode(base[:rows]))], base.std() / 10
    while (n := sum(map(len, codes))) < rows:
        x = base[: rows - n]
        codes.append(pack(function.encode(x + noise * rng.standard_normal(x.shape, np.float32))))
    return pack(function.encode(queries[:n_queries])), np.concatenate(codes)


def benchmark(name: str, queries: np.ndarray, codes: np.ndarray, hnsw: bool) -> None:
    build = seconds(lambda: MultiIndex(codes))
    index = MultiIndex(codes)
    for found, expected in zip(index.topk(queries, 10), scan.topk(queries, codes, 10), strict=True):
        np.testing.assert_array_equal(found, expected)
    kth = scan.topk(queries, codes, 10)[0][:, -1]
    near = scan.count_within(queries, codes, 2)
    np.testing.assert_array_equal(index.count_within(queries, 2), near)
    print(
        f"\n{name}: {len(codes):,} codes, {len(queries)} queries; mean distance of the 10th row {kth.mean():.1f},",
        end=" ",
    )
    print(f"mean number of rows within 2: {near.mean():.1f}\n")
    print("| search | build, s | one query, us | of many, us | recall |\n|---|---|---|---|---|")
    report("scan, k = 10", lambda q: scan.topk(q, codes, 10), queries, kth, 0)
    report("multi-index, k = 10", lambda q: index.topk(q, 10), queries, kth, build)
    report("scan, radius 2", lambda q: scan.within(q, codes, 2), queries, None, 0)
    report("multi-index, radius 2", lambda q: index.within(q, 2), queries, None, build)
    flat = faiss.IndexBinaryFlat(64)
    flat.add(codes)
    report("Faiss Flat, k = 10", lambda q: flat.search(q, 10), queries, kth, 0)
    length = len(codes).bit_length() - 1
    for kind, made in (
        ("Hash", faiss.IndexBinaryHash(64, length)),
        ("MultiHash", faiss.IndexBinaryMultiHash(64, 3, 21)),
        ("HNSW", faiss.IndexBinaryHNSW(64, 16)),
    ):
        if kind == "HNSW" and not hnsw:
            continue
        build = seconds(lambda made=made: made.add(codes))
        for effort in (16, 64) if kind == "HNSW" else (0, 1, 2):
            if kind == "HNSW":
                made.hnsw.efSearch = effort
            else:
                made.nflip = effort
            report(f"Faiss {kind} {effort}, k = 10", lambda q, made=made: made.search(q, 10), queries, kth, build)
            if kind == "MultiHash" and not effort:
                report(
                    "Faiss MultiHash 0, radius 2", lambda q, made=made: made.range_search(q, 3), queries, None, build
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--hnsw", action="store_true", help="build HNSW too")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    print(versions.line("numba", "faiss-cpu"))
    benchmark("photosift, ITQ", *photosift(options.rows, options.queries), options.hnsw)
    codes = np.random.default_rng(0).integers(0, 256, (options.rows + options.queries, 8), dtype=np.uint8)
    benchmark("random", codes[: options.queries], codes[options.queries :], options.hnsw)


if __name__ == "__main__":
    main()
