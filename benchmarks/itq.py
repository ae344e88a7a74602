"""Fitting ITQ compared with Faiss, on the same rows and with the same number of iterations, in one run.

    HASHKILN_DATA=… python benchmarks/itq.py [--dataset photosift] [--bits 64] [--iterations 50] [--repeats 3]
                                             [--one-core]

Faiss: PCAMatrix, configured to use all rows, and ITQMatrix, on one thread and on all cores, from rows in memory.
Hashkiln: in process (one core) and on Ray (all cores), from the Parquet shards, reading included. On one core the time
is that of the thread, so that other load matters less; `--one-core` leaves the others out. The alignment is the
objective that ITQ maximises: the mean of |VR| over the root mean square of VR. The recall is that of the 10 nearest
rows of 500 rows among the 100 rows with the nearest codes, of the first 100,000 rows.
The physical limit is the matrix products: 4 n k^2 flops per iteration.
"""

import argparse
import statistics
import time
from functools import partial

import faiss
import numpy as np

from hashing.mapreduce import Data
from hashing.methods.itq import ITQ
from infra.executors import InProcess, connect
from infra.settings import Settings
from workflows.datasets import ingest
from workflows.spec import Spec


def faiss_itq(x, bits, n_iter, threads):
    faiss.omp_set_num_threads(threads)
    pca, itq = faiss.PCAMatrix(x.shape[1], bits), faiss.ITQMatrix(bits)
    pca.max_points_per_d, itq.max_iter = len(x), n_iter
    pca.train(x)
    itq.train(pca.apply(x))
    basis = faiss.vector_to_array(pca.A).reshape(-1, x.shape[1])[:bits]
    return (faiss.vector_to_array(itq.A).reshape(bits, bits) @ basis).T


def ours(executor, shards, bits, n_iter):
    return ITQ(n_bits=bits, n_iter=n_iter).fit(Data(shards, executor)).weight


def alignment(x, weight):
    """Return |VR|_1 / (|V|_2 sqrt(n k)), which is 1 if B = sgn(VR) loses only the scale."""
    u = (x - x.mean(0)) @ weight
    return np.abs(u).sum() / np.sqrt((u.astype(np.float64) ** 2).sum() * u.size)


def recall(x, weight, nearest):
    """Return the recall of `nearest` (q, 10), the positions of the nearest rows of the first q rows of x."""
    codes = np.packbits((x - x.mean(0)) @ weight >= 0, axis=1)
    index = faiss.IndexBinaryFlat(8 * codes.shape[1])
    index.add(codes)
    found = index.search(codes[: len(nearest)], 101)[1]
    return np.mean([np.isin(near, candidates).mean() for near, candidates in zip(nearest, found, strict=True)])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="photosift")
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one-core", action="store_true")
    options = parser.parse_args()
    settings = Settings()
    shards = ingest(Spec(dataset=options.dataset), settings).shards("base")
    x = np.concatenate([batch.x for shard in shards for batch in shard]).astype(np.float32)
    size, cores = (options.bits, options.iterations), faiss.omp_get_max_threads()
    ways = {
        "Faiss, 1 thread": partial(faiss_itq, x, *size, 1),
        "Hashkiln, in process": partial(ours, InProcess(), shards, *size),
    }
    if not options.one_core:
        ray = connect(settings)
        ray.join()
        ways[f"Faiss, {cores} threads"] = partial(faiss_itq, x, *size, cores)
        ways["Hashkiln, Ray"] = partial(ours, ray, shards, *size)
    clocks = [time.thread_time, time.thread_time, time.perf_counter, time.perf_counter]
    seconds, weights = {name: [] for name in ways}, {}
    for _ in range(options.repeats):
        for (name, way), clock in zip(ways.items(), clocks, strict=False):
            start = clock()
            weights[name] = way()
            seconds[name].append(clock() - start)
    print(
        f"{options.dataset}: {x.shape}, {options.bits} bits, {options.iterations} iterations, {options.repeats} runs\n"
    )
    print("| fit | seconds (median) | relative to Faiss | alignment | recall |\n|---|---|---|---|---|")
    part = x[:100_000]
    nearest = faiss.knn(part[:500], part, 11)[1][:, 1:]  # the first is the row itself
    names = list(ways)
    for i, name in enumerate(names):
        median, peer = statistics.median(seconds[name]), statistics.median(seconds[names[i - i % 2]])
        weight = weights[name]
        values = f"{alignment(x, weight):.5f} | {recall(part, weight, nearest):.3f}"
        print(f"| {name} | {median:.1f} | {median / peer:.2f} | {values} |")


if __name__ == "__main__":
    main()
