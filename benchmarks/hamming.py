"""hashing.hamming compared with Faiss on one core, in one run.

    HASHKILN_DATA=... python benchmarks/hamming.py [--rows 1000000] [--queries 1000] [--repeats 3] [--codes FILE.npy]

Both visit every pair of a query and a row, so the unit is 10^9 pairs per second. If HASHKILN_DATA is set, the first
codes are those of photosift by ITQ at 64 bits, fitted here. Random codes follow, the hardest case for topk, because
nothing is near. Time is thread time. The two libraries alternate, and the table shows the median ratio of consecutive
runs, so that other load on the machine affects both alike.

The physical limits of a core with AVX-512: one popcount instruction per cycle on 8 words of 64 bits is 24 pairs per
nanosecond at 64 bits and 3 GHz. On the same two ports, packing every 32 distances takes 11 more instructions, which
leaves 13 to 15 pairs for count_within and topk while codes come from the L1 cache. A histogram also increments a
counter for two rows at a time: load, add and store, at best half a step per cycle, limit it to 3 to 4 pairs per
nanosecond.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np
import versions

from hashing.bits import pack
from hashing.hamming import scan
from hashing.mapreduce import Batch, Data
from hashing.methods.itq import ITQ
from infra.executors import InProcess
from infra.settings import Settings
from storage import datasets


def seconds(run: Callable[[], object]) -> float:
    start = time.thread_time()  # with one thread, Faiss runs on the calling one
    run()
    return time.thread_time() - start


def compare(name: str, n_pairs: int, ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> str:
    ours()
    theirs()
    runs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    mine, peer = (n_pairs / statistics.median(column) / 1e9 for column in zip(*runs, strict=True))
    ratio = statistics.median(b / a for a, b in runs)
    return f"| {name} | {mine:.2f} | {peer:.2f} | {ratio:.1f} |"


def photosift(n_bits: int) -> list[np.ndarray]:
    """Return the codes of the queries and of the base by ITQ, fitted on the learn split."""
    dataset = datasets.get("photosift")
    files = datasets.locate_or_fetch(dataset, Settings().data_folder)
    learn = [Batch(block.ids, block.x.astype(np.float32)) for block in datasets.read_split(dataset, "learn", files)]
    function = ITQ(n_bits).fit(Data([learn], InProcess()))
    splits = (datasets.read_split(dataset, split, files) for split in ("query", "base"))
    return [np.concatenate([pack(function.encode(block.x)) for block in split]) for split in splits]


def benchmark(name: str, codes: np.ndarray, n_queries: int, repeats: int) -> None:
    queries, database = codes[:n_queries], codes[n_queries:]
    n_bits = 8 * codes.shape[1]
    index = faiss.IndexBinaryFlat(n_bits)
    index.add(database)
    labels = np.random.default_rng(1).integers(1, 1 << 10, (len(codes), 1), dtype=np.uint64)
    with_labels = queries, database, n_bits, labels[:n_queries], labels[n_queries:]
    cases = [
        (
            "histogram; k=1000",
            lambda: scan.histogram(queries, database, n_bits),
            lambda: index.search(queries, 1000),
        ),
        ("histogram, labels; k=1000", lambda: scan.histogram(*with_labels), lambda: index.search(queries, 1000)),
        (
            "count_within 2; range 2",
            lambda: scan.count_within(queries, database, 2),
            lambda: index.range_search(queries, 3),
        ),
        ("within 2; range 2", lambda: scan.within(queries, database, 2), lambda: index.range_search(queries, 3)),
    ]
    cases += [
        (f"topk; k={k}", lambda k=k: scan.topk(queries, database, k), lambda k=k: index.search(queries, k))
        for k in (1, 10, 100, 1000)
    ]
    for case, ours, theirs in cases:
        print(compare(f"{name}, {n_bits} bits: {case}", n_queries * len(database), ours, theirs, repeats), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bits", type=int, nargs="*", default=[32, 64, 128, 256], help="lengths of the random codes")
    parser.add_argument("--codes", help="packed codes, (n, B) uint8, in random order; the first ones are the queries")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    size = f"{options.rows:,} rows, {options.queries:,} queries, one core, medians of {options.repeats}"
    print(f"{size}; {versions.line('numba', 'faiss-cpu')}\n")
    print("| operation; Faiss IndexBinaryFlat | Hashkiln, Gpair/s | Faiss, Gpair/s | ratio |\n|---|---|---|---|")
    if options.codes:
        benchmark(options.codes, np.load(options.codes), options.queries, options.repeats)
        return
    if "HASHKILN_DATA" in os.environ:
        queries, base = photosift(64)
        codes = np.concatenate([queries[: options.queries], base[: options.rows]])
        benchmark("photosift, ITQ", codes, options.queries, options.repeats)
    for n_bits in options.bits:
        shape = options.rows + options.queries, n_bits // 8
        benchmark("random", rng.integers(0, 256, shape, dtype=np.uint8), options.queries, options.repeats)


if __name__ == "__main__":
    main()
