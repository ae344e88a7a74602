"""The exact evaluation compared with the usual one, and how its cost grows.

    HASHKILN_DATA=... python benchmarks/evaluation.py [--queries 10000] [--repeats 3] [--huge]

1. MNIST by ITQ at 64 bits, 10,000 queries x 60,000 rows, all metrics. The usual evaluation sorts the rows for one query
   after another, as published code for deep hashing does, and computes the metrics that this one order allows. Thread
   time on one core each; then wall-clock time, ours in two processes with half of the queries each, the usual one
   unchanged. The lower limit is counting pairs (see benchmarks/hamming.py); the rest is computing metrics.
2. Random codes, 10^5 to 10^7 rows (10^8 with --huge), 1,000 queries: time per pair and memory should not grow.
3. Two Ray workers compared with two plain processes on the same shards.

Memory is the peak that numpy and Python allocate beyond what they held before.
"""

import argparse
import os
import statistics
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial, reduce
from multiprocessing import get_context

import numpy as np
import versions

from hashing.bits import pack, unpack
from hashing.evaluation import tie_groups
from hashing.evaluation.histograms import HammingHistogram
from hashing.evaluation.metrics import (
    area_under_pooled_curve,
    average_precision,
    average_precision_at,
    average_precision_at_hits,
    average_precision_bounds,
    interpolated_precision_bounds,
    ndcg,
    precision_at,
    precision_recall_curve,
    precision_within,
    recall_at,
    recall_within,
    reciprocal_rank,
    success_at,
    trapezoid_average_precision,
)
from hashing.hamming.layout import pack_labels
from hashing.mapreduce import Batch, Data, fold, one_blas_thread
from hashing.methods.itq import ITQ
from infra.executors import InProcess, Ray
from infra.settings import Settings
from storage import datasets

BITS, BATCH, CUTOFF, BLOCK = 64, 65536, 1000, 1000


@dataclass(frozen=True)
class RandomCodes:
    """A shard of random codes, generated when it is read."""

    seed: int
    rows: int

    def __iter__(self):
        rng = np.random.default_rng(self.seed)
        for start in range(0, self.rows, BATCH):
            n = min(BATCH, self.rows - start)
            yield Batch(np.arange(start, start + n), rng.integers(0, 256, (n, BITS // 8), dtype=np.uint8))


def mnist(split: str, settings: Settings) -> Batch:
    dataset = datasets.get("mnist")
    blocks = list(datasets.read_split(dataset, split, datasets.locate_or_fetch(dataset, settings.data_folder)))
    labels = np.concatenate([block.labels for block in blocks])[:, 0]
    x = np.concatenate([block.x for block in blocks]).astype(np.float32)
    return Batch(np.concatenate([block.ids for block in blocks]), x, np.eye(10, dtype=np.uint8)[labels])


def every_metric(h: np.ndarray) -> dict[str, object]:
    """Return all metrics of a histogram except A6, which pools the queries; ties as expectations and bounds."""
    at = (average_precision_at, average_precision_at_hits, precision_at, recall_at, success_at)
    whole = (average_precision, average_precision_bounds, trapezoid_average_precision, reciprocal_rank,
             interpolated_precision_bounds, precision_recall_curve)  # fmt: skip
    g = tie_groups.groups(h)
    found = {f.__name__: f(g) for f in whole} | {f.__name__: f(g, CUTOFF) for f in at}
    found |= {f.__name__: f(g, 2) for f in (precision_within, recall_within)}
    return found | {"ndcg": ndcg(np.stack([h[0] - h[1], h[1]]))}


def ours(codes: Batch, queries: Batch) -> dict[str, object]:
    """Return means over queries, computed in blocks that fit the CPU cache."""
    h = Data([[codes]], InProcess()).reduce(HammingHistogram(queries.x, BITS, pack_labels(queries.y), queries.ids))
    means: dict[str, object] = {"a6": area_under_pooled_curve(h)}
    for start in range(0, len(queries.ids), BLOCK):
        for name, values in every_metric(h[:, start : start + BLOCK]).items():
            means[name] = means.get(name, 0) + np.atleast_2d(values).sum(axis=1) / len(queries.ids)
    return means


def usual(signs: np.ndarray, y: np.ndarray, query_signs: np.ndarray, query_y: np.ndarray) -> dict[str, object]:
    """Return means over queries of the metrics of one order, with ties in the order that the sort leaves."""
    n, means = len(y), {}
    ranks, discounts = np.arange(1, n + 1), 1 / np.log2(np.arange(2, n + 2))
    for query, label in zip(query_signs, query_y, strict=True):
        relevant = label @ y.T > 0
        distance = 0.5 * (BITS - query @ signs.T)
        ranked = relevant[np.argsort(distance)]
        found = ranked.cumsum()
        precision, recall = found / ranks, found / found[-1]
        hits = np.flatnonzero(ranked)
        at_hits, ball, first = precision[hits], distance <= 2, found[CUTOFF - 1]
        before = np.where(hits > 0, np.arange(len(hits)) / np.maximum(hits, 1), 1)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        metrics = {
            "map": at_hits.mean(),
            "map_trapezoid": (at_hits + before).mean() / 2,
            "map_interpolated": highest[np.searchsorted(recall, np.linspace(0, 1, 21))].mean(),
            "map_at": at_hits[:first].sum() / min(len(hits), CUTOFF),
            "map_at_hits": at_hits[:first].sum() / max(first, 1),
            "precision_at": first / CUTOFF,
            "recall_at": recall[CUTOFF - 1],
            "success_at": first > 0,
            "reciprocal_rank": 1 / (hits[0] + 1),
            "ndcg": discounts[hits].sum() / discounts[: len(hits)].sum(),
            "precision_within": relevant[ball].sum() / max(ball.sum(), 1),
            "recall_within": relevant[ball].sum() / len(hits),
            "precision_curve": precision,
            "recall_curve": recall,
        }
        for name, value in metrics.items():
            means[name] = means.get(name, 0) + value / len(query_signs)
    return means


def timed(run, clock=time.thread_time) -> tuple[float, object]:
    """Return (seconds, result) of a call. Thread time hardly depends on other load on the machine."""
    start = clock()
    result = run()
    return clock() - start, result


def peak(run) -> float:
    """Return the peak MiB that numpy and Python allocate beyond what they held before."""
    tracemalloc.start()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 2**20


def compare(n_queries: int, repeats: int, settings: Settings) -> None:
    base, queries = mnist("base", settings), mnist("query", settings).take(slice(n_queries))
    function = ITQ(BITS).fit(Data([[base]], InProcess()))
    codes, query_codes = (part._replace(x=pack(function.encode(part.x))) for part in (base, queries))
    ours(codes, query_codes.take(slice(10)))  # compiles the kernels
    runs = [timed(lambda: ours(codes, query_codes)) for _ in range(repeats)]
    signs, query_signs = (2 * unpack(part.x, BITS).astype(np.float32) - 1 for part in (codes, query_codes))
    y, query_y = (part.y.astype(np.float32) for part in (base, query_codes))
    with one_blas_thread():
        clock, (taken, means) = timed(lambda: timed(lambda: usual(signs, y, query_signs, query_y)), time.perf_counter)
        memory = peak(lambda: usual(signs, y, query_signs[:20], query_y[:20]))
    seconds, found = statistics.median(run[0] for run in runs), runs[0][1]
    halves = [query_codes.take(slice(half, None, 2)) for half in range(2)]
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        together = partial(pool.map, partial(ours, codes), halves)
        list(together())  # starts the processes
        elapsed = statistics.median(timed(lambda: list(together()), time.perf_counter)[0] for _ in range(repeats))
    print(f"MNIST, ITQ, {BITS} bits, {len(query_codes.ids):,} queries x {len(codes.ids):,} rows, one core\n")
    print("| | s | MiB above the data | MAP | metrics |\n|---|---|---|---|---|")
    print(f"| histogram, median of {repeats} | {seconds:.2f} | {peak(lambda: ours(codes, query_codes)):.0f} | "
          f"{found['average_precision'][0]:.4f} | {len(found)} |")  # fmt: skip
    print(f"| one sort per query, run once | {taken:.1f} | {memory:.0f} | {means['map']:.4f} | {len(means)} |")
    print(
        f"\nratio {taken / seconds:.0f}; wall clock {clock:.1f} s and {elapsed:.2f} s, ratio {clock / elapsed:.0f}\n",
        flush=True,
    )


def grow(sizes: list[int], repeats: int) -> None:
    statistic = random_queries(1000)
    fold(statistic, RandomCodes(0, 9))
    print("| random codes | Gpair/s | MiB above the data |\n|---|---|---|")
    for rows in sizes:
        batches = list(RandomCodes(0, rows))
        runs = [timed(lambda batches=batches: fold(statistic, batches))[0] for _ in range(repeats)]
        memory = peak(lambda batches=batches: fold(statistic, batches))
        print(f"| {rows:,} | {1000 * rows / statistics.median(runs) / 1e9:.2f} | {memory:.1f} |", flush=True)


def random_queries(n: int) -> HammingHistogram:
    codes = np.random.default_rng(99).integers(0, 256, (n, BITS // 8), dtype=np.uint8)
    return HammingHistogram(codes, BITS, None, np.arange(-n, 0))


def fold_all(statistic: HammingHistogram, shards: list[RandomCodes]) -> np.ndarray:
    with one_blas_thread():
        return reduce(statistic.merge, (fold(statistic, shard) for shard in shards))


def two_workers(rows: int, repeats: int) -> None:
    shards, statistic = [RandomCodes(seed, rows) for seed in range(16)], random_queries(1000)
    ray, ratios, rates = Ray(cpus=2), [], []
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        for repeat in range(repeats + 1):
            plain, states = timed(
                lambda: list(pool.map(partial(fold_all, statistic), [shards[::2], shards[1::2]])), time.perf_counter
            )
            taken, found = timed(lambda: Data(shards, ray).reduce(statistic), time.perf_counter)
            if repeat:  # the first run starts the processes
                ratios.append(plain / taken)
                rates.append([1000 * rows * len(shards) / seconds / 1e9 for seconds in (plain, taken)])
    plain, taken = np.median(rates, axis=0)
    print(
        f"\n16 shards of {rows:,} rows, two plain processes: {plain:.2f} Gpair/s; two Ray workers: {taken:.2f};",
        end=" ",
    )
    print(f"ratio {statistics.median(ratios):.2f}; equal: {(found == statistic.merge(*states)).all()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--huge", action="store_true", help="add 10^8 rows")
    options = parser.parse_args()
    print(f"{versions.line('numba', 'ray')}\n")
    if "HASHKILN_DATA" in os.environ:
        compare(options.queries, options.repeats, Settings())
    else:
        print("HASHKILN_DATA is not set: skipping MNIST")
    grow([10**5, 10**6, 10**7] + [10**8] * options.huge, options.repeats)
    two_workers(1_000_000, options.repeats)


if __name__ == "__main__":
    main()
