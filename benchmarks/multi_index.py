"""Where is the exact multi-index faster than a scan and than Faiss's indexes of binary codes, on one core?

    HASHKILN_DATA=… python benchmarks/multi_index.py [--rows 1000000] [--bits 64] [--parts 1] [--peers hash,multihash]

Two kinds of codes. Uniformly random ones, where nothing is near: the hardest case. And near ones: those of photosift by
ITQ, of the base vectors and of copies of them with Gaussian noise of a tenth of the standard deviation, up to the
number of rows; where photosift's 128 dimensions do not suffice for the bits, or --synthetic is given, random codes of
which copies differ in 3 % of their bits, ten copies of each. Codes are generated a million at a time. --full takes 10^6
rows with all peers, 10^7 without hnsw, and 10^8 without peers, all of 64 bits, and 10^6 of 32, 128 and 256 bits.

Times are thread times a query, of one call for each query and of one call for all. The recall of the 10 nearest counts
a row as found if its distance is at most that of the exact 10th; the multi-index and the scan are exact and compared.
"win" is the time of a scan for one query divided by the time of the row: below 1 the scan is faster. --parts cuts the
rows into parts with an index each, as `hashkiln.open(index="stored")` searches. The peers are hash, multihash and hnsw
(which takes long to build). Memory: a row takes the bytes of its code twice, 8 bytes of id, and 4 bytes for each piece,
and Faiss's indexes take as much or more again: 10^8 rows of 64 bits need 4 GiB without peers.

Further tables compare the cost model, by which the index falls back to a scan, with measured times: a scan, and
look-ups that used up a budget.
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import faiss
import measure
import numpy as np

from hashing.bits import pack
from hashing.hamming import scan
from hashing.mapreduce import Batch, Data
from hashing.methods.itq import ITQ
from hashing.neighbours import multi_index_kernels
from hashing.neighbours.multi_index import SHARE, MultiIndex, code_pieces, index_codes, to_words
from infra.executors import InProcess
from infra.settings import Settings
from storage import datasets

BLOCK = 1_000_000
FULL = [  # rows, bits, peers
    *((10**6, bits, "") for bits in (32, 128, 256)),
    (10**6, 64, "hash,multihash,hnsw"), (10**7, 64, "hash,multihash"), (10**8, 64, ""),
]  # fmt: skip
REMARKS = """
Where the multi-index does not win: a ratio below 1. For the 10 nearest, its time grows with their distance. On random
codes nothing is near, and a query takes as long as a scan, or a little longer: the index is given half the time of a
scan, and is seldom tried while that does not suffice. Faiss's hash, multihash and hnsw can be faster where they find
only some of the nearest rows: see their recall. Building hnsw for 10^7 codes, and any of them for 10^8, was left out.
"""
HEADER = "\n| search | build, s | one query, us | of many, us | win | recall |\n|---|---|---|---|---|---|"
Search = Callable[[np.ndarray], tuple[np.ndarray, ...]]


def seconds(run: Callable[[], object]) -> float:
    start = time.thread_time()
    run()
    return time.thread_time() - start


def photosift(rows: int, n_queries: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return codes of the queries and of the base, with noisy copies."""
    dataset = datasets.get("photosift")
    files = datasets.locate_or_fetch(dataset, Settings().data_folder)
    learn = [Batch(block.ids, block.x.astype(np.float32)) for block in datasets.read_split(dataset, "learn", files)]
    function, rng = ITQ(bits).fit(Data([learn], InProcess())), np.random.default_rng(0)
    read = (datasets.read_split(dataset, split, files) for split in ("query", "base"))
    queries, base = (np.concatenate([block.x for block in split]).astype(np.float32) for split in read)
    codes, noise = np.empty((rows, -(-bits // 8)), np.uint8), base.std() / 10
    for start in range(0, rows, BLOCK):
        x = base[np.arange(start, min(start + BLOCK, rows)) % len(base)]
        if start >= len(base):
            x += noise * rng.standard_normal(x.shape, np.float32)
        codes[start : start + len(x)] = pack(function.encode(x))
    return pack(function.encode(queries[:n_queries])), codes


def drawn(rows: int, n_queries: int, bits: int, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """Return random codes of the queries and of the rows. With copies, these differ from fewer codes in 3 % of bits."""
    rng, n = np.random.default_rng(0), rows + n_queries
    codes = np.empty((n, bits // 8), np.uint8)
    for start in range(0, n, BLOCK):
        codes[start : start + BLOCK] = rng.integers(0, 256, codes[start : start + BLOCK].shape, dtype=np.uint8)
    if copies:
        centres = codes[: -(-n // copies)].copy()
        for start in range(0, n, BLOCK):
            some = codes[start : start + BLOCK]
            flips = np.bitwise_and.reduce(rng.integers(0, 256, (5, *some.shape), dtype=np.uint8))  # 1 in 32 bits
            some[:] = centres[rng.integers(0, len(centres), len(some))] ^ flips
    return codes[:n_queries], codes[n_queries:]


class Report:
    """Rows of a table, each beside the time of a scan of the same kind."""

    def __init__(self, queries: np.ndarray, kth: np.ndarray) -> None:
        self.queries, self.kth = queries, kth
        self.times: dict[str, dict[str, list[float]]] = {}  # kind -> name -> seconds of each query

    def __call__(self, name: str, kind: str, search: Search, build: float = 0) -> None:
        queries = self.queries
        search(queries[:1])
        times = [seconds(lambda i=i: search(queries[i : i + 1])) for i in range(len(queries))]
        single = float(np.median(times))
        together = seconds(lambda: search(queries)) / len(queries)
        scans = self.times.setdefault(kind, {"scan": times})["scan"]
        win = float(np.median(scans)) / single
        recall = f"{(search(queries)[0] <= self.kth[:, None]).mean():.3f}" if kind == "k = 10" else ""
        print(
            f"| {name}, {kind} | {build:.1f} | {1e6 * single:.0f} | {1e6 * together:.0f} | {win:.1f} | {recall} |",
            flush=True,
        )
        self.times[kind][f"{name}, recall {recall}" if recall and name != "scan" else name] = times

    def rows(self, codes: str) -> Iterator[measure.Row]:
        """Yield the multi-index beside each other search, by the times of single queries."""
        for kind, times in self.times.items():
            ours = next(name for name in times if name.startswith("multi-index"))
            for name in [name for name in times if name != ours]:
                seconds = {"ours": times[ours], "peer": times[name]}
                yield measure.row(f"{codes}: one query, {kind}; peer: {name}", seconds, "us", 1e6)


def benchmark(
    name: str, queries: np.ndarray, codes: np.ndarray, n_parts: int, peers: list[str]
) -> Iterator[measure.Row]:
    distances, near = scan.topk(queries, codes, 10)[0], scan.count_within(queries, codes, 2)
    report = Report(queries, distances[:, -1])
    print(f"\n{name}: {len(codes):,} codes of {8 * codes.shape[1]} bits in {n_parts} parts,", end=" ")
    print(f"{len(queries)} queries; mean distance of the 10th row {distances[:, -1].mean():.1f},", end=" ")
    print(f"mean number of rows within 2: {near.mean():.1f}")
    build = exact(report, codes, n_parts)
    if peers:
        print(HEADER)
        flat = faiss.IndexBinaryFlat(8 * codes.shape[1])
        flat.add(codes)
        report("Faiss Flat", "k = 10", lambda q: flat.search(q, 10))
    for peer in peers:
        approximate(report, codes, peer)
    case = f"{name}, {len(codes):,} codes of {8 * codes.shape[1]} bits"
    yield measure.row(f"{case}: building the multi-index", {"ours": [build]}, "s")
    yield from report.rows(case)


def exact(report: Report, codes: np.ndarray, n_parts: int) -> float:
    """Measure the multi-index and the scan, and return the seconds of building the index."""
    queries, ids, parts = report.queries, np.arange(len(codes)), []
    bounds = np.linspace(0, len(codes), n_parts + 1).astype(int)
    rows = [slice(*pair) for pair in pairwise(bounds)]
    build = seconds(lambda: parts.extend(index_codes(ids[part], codes[part]) for part in rows))
    index = MultiIndex(parts, codes.shape[1], Batch(ids, codes))
    for found, expected in zip(index.topk(queries, 10), scan.topk(queries, codes, 10), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(index.count_within(queries, 2), scan.count_within(queries, codes, 2))
    print(HEADER)
    report("scan", "k = 10", lambda q: scan.topk(q, codes, 10))
    report("multi-index", "k = 10", lambda q: index.topk(q, 10), build)
    report("scan", "radius 2", lambda q: scan.within(q, codes, 2))
    report("multi-index", "radius 2", lambda q: index.within(q, 2), build)
    print("\n| cost model | assumed, us | measured, us |\n|---|---|---|")
    for some in (queries[:1], queries):
        search = partial(scan.topk, some, codes, 10)
        measured = np.median([seconds(search) for _ in range(5)]) / len(some)
        assumed = index._budget(len(some)) / SHARE
        print(f"| scan for each of {len(some)} queries | {assumed / 1e3:.0f} | {1e6 * measured:.0f} |")
    for budget in (1e5, 1e6):
        spent = []
        for words in to_words(queries)[:, None]:
            found, done = (np.empty((1, 10), np.int32), np.empty((1, 10), np.int64)), np.zeros(1, bool)
            time_taken = seconds(partial(multi_index_kernels.topk, words, *index._index, budget, *found, done))
            spent += [] if done[0] else [time_taken]
        if spent:
            name = f"{len(spent)} look-ups that used up a budget"
            print(f"| {name} | {budget / 1e3:.0f} | {1e6 * np.median(spent):.0f} |")
    return build


def approximate(report: Report, codes: np.ndarray, peer: str) -> None:
    bits, pieces = 8 * codes.shape[1], len(code_pieces(*codes.shape))
    if peer == "hash":
        index, efforts = faiss.IndexBinaryHash(bits, min(bits, len(codes).bit_length() - 1)), (0, 1, 2)
    elif peer == "multihash":
        index, efforts = faiss.IndexBinaryMultiHash(bits, pieces, bits // pieces), (0, 1, 2)
    else:
        index, efforts = faiss.IndexBinaryHNSW(bits, 16), (16, 64, 256)
    build = seconds(lambda: index.add(codes))
    for effort in efforts:
        if peer == "hnsw":
            index.hnsw.efSearch = effort
        else:
            index.nflip = effort
        report(f"Faiss {peer} {effort}", "k = 10", lambda q: index.search(q, 10), build)
    if peer == "multihash":
        index.nflip = 2 // pieces  # enough for all rows within 2
        report(f"Faiss multihash {index.nflip}", "radius 2", lambda q: index.range_search(q, 3), build)


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    faiss.omp_set_num_threads(1)
    for rows, bits, names in FULL if options.full else [(options.rows or 10**6, options.bits, options.peers)]:
        peers, size = [name for name in names.split(",") if name], (rows, options.queries, bits)
        if options.synthetic or bits > 128:
            yield from benchmark("near copies of random codes", *drawn(*size, copies=10), options.parts, peers)
        else:
            yield from benchmark("photosift, ITQ", *photosift(*size), options.parts, peers)
        yield from benchmark("random", *drawn(*size, copies=0), options.parts, peers)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        yield measure.row(f"peak memory to {rows:,} codes of {bits} bits", {"ours": [peak]}, "GiB")


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--rows", type=int, help="default: 10^6")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--peers", default="hash,multihash", help="of hash, multihash and hnsw; empty: none")
    parser.add_argument("--synthetic", action="store_true", help="near codes without photosift")
    options = parser.parse_args()
    peer, packages = "named in each row", ("numba", "faiss-cpu")
    measure.run(__doc__, options, measured(options), peer=peer, packages=packages, remarks=REMARKS)


if __name__ == "__main__":
    main()
