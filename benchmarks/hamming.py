"""How fast are the scans over codes in memory, on one core?

    HASHKILN_DATA=... python benchmarks/hamming.py [--rows 500000] [--queries 1000] [--full] [--codes FILE.npy]

Both libraries visit every pair of a query and a row, so the unit is 10^9 pairs per second. If HASHKILN_DATA is set, the
first codes are those of photosift by ITQ at 64 bits, fitted here. Random codes follow, the hardest case for topk,
because nothing is near; --full adds 32 and 128 bits, labels, and more values of k. Time is thread time.

The limit is one popcount instruction per cycle on 512 bits. On the same two ports, packing every 32 distances takes 11
more instructions, which leaves about 60 % of that rate for count_within and topk while codes come from the L1 cache. A
histogram also increments a counter for two rows at a time: load, add and store, at best half a step per cycle, limit it
to about 15 % at 64 bits.
"""

import argparse
import os
from collections.abc import Iterator

import faiss
import measure
import numpy as np

from hashing.bits import pack
from hashing.hamming import scan
from hashing.mapreduce import Batch, Data
from hashing.methods.itq import ITQ
from infra.executors import InProcess
from infra.settings import Settings
from storage import datasets


def photosift(n_bits: int) -> list[np.ndarray]:
    """Return the codes of the queries and of the base by ITQ, fitted on the learn split."""
    dataset = datasets.get("photosift")
    files = datasets.locate_or_fetch(dataset, Settings().data_folder)
    learn = [Batch(block.ids, block.x.astype(np.float32)) for block in datasets.read_split(dataset, "learn", files)]
    function = ITQ(n_bits).fit(Data([learn], InProcess()))
    splits = (datasets.read_split(dataset, split, files) for split in ("query", "base"))
    return [np.concatenate([pack(function.encode(block.x)) for block in split]) for split in splits]


def benchmark(name: str, codes: np.ndarray, options: argparse.Namespace) -> Iterator[measure.Row]:
    queries, database = codes[: options.queries], codes[options.queries :]
    n_bits, n_pairs = 8 * codes.shape[1], len(queries) * len(database)
    index = faiss.IndexBinaryFlat(n_bits)
    index.add(database)
    labels = np.random.default_rng(1).integers(1, 1 << 10, (len(codes), 1), dtype=np.uint64)
    with_labels = queries, database, n_bits, labels[: len(queries)], labels[len(queries) :]

    def nearest(k: int) -> object:
        return index.search(queries, k)

    def near() -> object:
        return index.range_search(queries, 3)

    cases = {
        "histogram; peer: k=1000": (lambda: scan.histogram(queries, database, n_bits), lambda: nearest(1000)),
        "count_within 2": (lambda: scan.count_within(queries, database, 2), near),
        "within 2": (lambda: scan.within(queries, database, 2), near),
        "topk, k=10": (lambda: scan.topk(queries, database, 10), lambda: nearest(10)),
    }
    if options.full:
        cases["histogram with labels; peer: k=1000"] = (lambda: scan.histogram(*with_labels), lambda: nearest(1000))
        for k in (1, 100, 1000):
            cases[f"topk, k={k}"] = (lambda k=k: scan.topk(queries, database, k), lambda k=k: nearest(k))
    most = measure.popcounts(n_bits)
    for case, (ours, peer) in cases.items():
        seconds = measure.in_turns({"ours": ours, "peer": peer}, options.repeats)
        limit = most and most / 1e9
        yield measure.row(f"{name}, {n_bits} bits: {case}", seconds, "Gpair/s", n_pairs / 1e9, limit)


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    faiss.omp_set_num_threads(1)
    if options.codes:
        yield from benchmark(options.codes, np.load(options.codes), options)
        return
    if "HASHKILN_DATA" in os.environ:
        queries, base = photosift(64)
        codes = np.concatenate([queries[: options.queries], base[: options.rows]])
        yield from benchmark("photosift, ITQ", codes, options)
    rng = np.random.default_rng(0)
    for n_bits in [32, 64, 128, 256] if options.full else [64, 256]:
        shape = options.rows + options.queries, n_bits // 8
        yield from benchmark("random", rng.integers(0, 256, shape, dtype=np.uint8), options)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--codes", help="packed codes, (n, B) uint8, in random order; the first ones are the queries")
    options = parser.parse_args()
    limit = "one population count of 512 bits per cycle, at the measured clock rate"
    packages = "numba", "faiss-cpu"
    measure.run(__doc__, options, measured(options), peer="Faiss IndexBinaryFlat", limit=limit, packages=packages)


if __name__ == "__main__":
    main()
