"""hashing.hamming beside Faiss on one core: python benchmarks/hamming.py [--rows N] [--queries Q] [--codes FILE.npy].

Both visit every pair of a query and a row, so the unit is 10^9 pairs a second. Without --codes the codes are random,
which is the hardest case for topk: nothing is near. The two take turns, and the median of the ratios of neighbouring
runs is given, so that other load on the machine meets both alike.

The physical limits of a core with AVX-512: one popcount instruction a cycle, of 8 words of 64 bits, is 24 pairs a
nanosecond at 64 bits and 3 GHz; on the same two ports every 32 distances are packed in 11 instructions more, which
leaves 13 to 15 to count_within and topk as long as codes come from the level 1 cache. A histogram also adds 1 to a
counter, for two rows at a time: load, add and store, half a step a cycle at best, is 3 to 4 pairs a nanosecond.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np

from hashing import hamming


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(name: str, n_pairs: int, ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> str:
    ours(), theirs()
    runs = [(seconds(ours), seconds(theirs)) for _ in range(repeats)]
    mine, peer = (n_pairs / statistics.median(column) / 1e9 for column in zip(*runs, strict=True))
    ratio = statistics.median(b / a for a, b in runs)
    return f"| {name} | {mine:.2f} | {peer:.2f} | {ratio:.1f} |"


def benchmark(codes: np.ndarray, n_queries: int, repeats: int) -> None:
    queries, database = codes[:n_queries], codes[n_queries:]
    n_bits = 8 * codes.shape[1]
    index = faiss.IndexBinaryFlat(n_bits)
    index.add(database)
    labels = np.random.default_rng(1).integers(1, 1 << 10, (len(codes), 1), dtype=np.uint64)
    with_labels = queries, database, n_bits, labels[:n_queries], labels[n_queries:]
    cases = [
        (
            "histogram; k=1000",
            lambda: hamming.histogram(queries, database, n_bits),
            lambda: index.search(queries, 1000),
        ),
        ("histogram, labels; k=1000", lambda: hamming.histogram(*with_labels), lambda: index.search(queries, 1000)),
        (
            "count_within 2; range 2",
            lambda: hamming.count_within(queries, database, 2),
            lambda: index.range_search(queries, 3),
        ),
        ("within 2; range 2", lambda: hamming.within(queries, database, 2), lambda: index.range_search(queries, 3)),
    ]
    cases += [
        (f"topk; k={k}", lambda k=k: hamming.topk(queries, database, k), lambda k=k: index.search(queries, k))
        for k in (1, 10, 100, 1000)
    ]
    for name, ours, theirs in cases:
        print(compare(f"{n_bits} bits: {name}", n_queries * len(database), ours, theirs, repeats), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--codes", help="packed codes, (n, B) uint8, in random order; the first ones are the queries")
    arguments = parser.parse_args()
    faiss.omp_set_num_threads(1)
    rng = np.random.default_rng(0)
    print("| what; Faiss's IndexBinaryFlat | Hashkiln, Gpair/s | Faiss, Gpair/s | ratio |\n|---|---|---|---|")
    if arguments.codes:
        benchmark(np.load(arguments.codes), arguments.queries, arguments.repeats)
        return
    for n_bits in arguments.bits:
        shape = arguments.rows + arguments.queries, n_bits // 8
        benchmark(rng.integers(0, 256, shape, dtype=np.uint8), arguments.queries, arguments.repeats)


if __name__ == "__main__":
    main()
