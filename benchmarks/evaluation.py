"""How fast is the exact evaluation, compared with the usual one, which sorts the rows for each query?

    HASHKILN_DATA=... python benchmarks/evaluation.py [--queries 1000] [--repeats 3] [--full]

MNIST by ITQ at 64 bits, 1,000 queries (10,000 with --full) x 60,000 rows, all metrics, thread time on one core. The
peer sorts the rows for one query after another, as published code for deep hashing does, and computes the metrics that
this one order allows. The limit is counting the pairs (see benchmarks/hamming.py); the rest is computing metrics.

Then histograms of random codes in 16 shards by two Ray workers, compared with two plain processes: wall-clock time.
Memory is the peak that numpy and Python allocate beyond what they held before. benchmarks/scale.py shows how time and
memory grow.
"""

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial, reduce
from multiprocessing import get_context

import measure
import numpy as np

from hashing.bits import pack, unpack
from hashing.blas import one_blas_thread
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
from hashing.mapreduce import Batch, Data, fold
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


def peak(run: Callable[[], object]) -> float:
    """Return the peak MiB that numpy and Python allocate beyond what they held before."""
    tracemalloc.start()
    run()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 2**20


def compare(n_queries: int, repeats: int) -> measure.Row:
    base, queries = mnist("base", Settings()), mnist("query", Settings()).take(slice(n_queries))
    function = ITQ(BITS).fit(Data([[base]], InProcess()))
    codes, query_codes = (part._replace(x=pack(function.encode(part.x))) for part in (base, queries))
    signs, query_signs = (2 * unpack(part.x, BITS).astype(np.float32) - 1 for part in (codes, query_codes))
    y, query_y = (part.y.astype(np.float32) for part in (base, query_codes))
    histogram = HammingHistogram(query_codes.x, BITS, pack_labels(query_codes.y), query_codes.ids)
    with one_blas_thread():
        found, means = ours(codes, query_codes), usual(signs, y, query_signs, query_y)
        ways = {
            "ours": lambda: ours(codes, query_codes),
            "peer": lambda: usual(signs, y, query_signs, query_y),
            "limit": lambda: Data([[codes]], InProcess()).reduce(histogram),
        }
        seconds = measure.in_turns(ways, repeats)
        memory = peak(ways["ours"]), peak(lambda: usual(signs, y, query_signs[:20], query_y[:20]))
    note = (
        f"{len(found)} and {len(means)} metrics, MAP {found['average_precision'][0]:.4f} and {means['map']:.4f}, "
        f"{memory[0]:.0f} and {memory[1]:.0f} MiB above the data"
    )
    case = f"MNIST, ITQ, {BITS} bits, {len(query_codes.ids):,} queries x {len(codes.ids):,} rows, one core"
    return measure.row(case, seconds, "s", note=note)


def random_queries(n: int) -> HammingHistogram:
    codes = np.random.default_rng(99).integers(0, 256, (n, BITS // 8), dtype=np.uint8)
    return HammingHistogram(codes, BITS, None, np.arange(-n, 0))


def fold_all(statistic: HammingHistogram, shards: list[RandomCodes]) -> np.ndarray:
    with one_blas_thread():
        return reduce(statistic.merge, (fold(statistic, shard) for shard in shards))


def two_workers(rows: int, repeats: int) -> measure.Row:
    statistic, shards = random_queries(1000), [RandomCodes(seed, rows) for seed in range(16)]
    ray = Ray(cpus=2)
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        found = {}

        def plain() -> None:
            halves = pool.map(partial(fold_all, statistic), [shards[::2], shards[1::2]])
            found["plain"] = statistic.merge(*halves)

        def workers() -> None:
            found["ray"] = Data(shards, ray).reduce(statistic)

        seconds = measure.in_turns({"ours": workers, "peer": plain}, repeats, time.perf_counter)
    note = f"peer: two plain processes; equal: {(found['ray'] == found['plain']).all()}"
    pairs = len(shards) * rows * len(statistic.ids) / 1e9
    return measure.row(f"16 shards of {rows:,} rows, two Ray workers", seconds, "Gpair/s", pairs, note=note)


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    if "HASHKILN_DATA" in os.environ:
        yield compare(10_000 if options.full else options.queries, options.repeats)
    else:
        print("HASHKILN_DATA is not set: skipping MNIST")
    yield two_workers(1_000_000, options.repeats)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    peer, limit = "one sort per query", "counting the pairs"
    measure.run(__doc__, options, measured(options), peer=peer, limit=limit, packages=("numba", "ray"))


if __name__ == "__main__":
    main()
