"""How fast is fitting ITQ, on one core and on all?

    HASHKILN_DATA=… python benchmarks/itq.py [--dataset photosift] [--shards 2] [--bits 64] [--iterations 50] [--full]

Faiss: PCAMatrix, configured to use all rows, and ITQMatrix, from rows in memory, with the same number of iterations.
Hashkiln: from the Parquet shards, reading included; thread time in process. --full fits on all shards, and adds all
cores in wall-clock time: Ray compared with Faiss's threads. The alignment is the objective that ITQ maximises: the mean
of |VR| over the root mean square of VR. The recall is that of the 10 nearest rows of 500 rows among the 100 rows with
the nearest codes, of the first 100,000 rows. The limit is the matrix products: 4 n k^2 flops per iteration.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import faiss
import measure
import numpy as np

from hashing.blas import one_blas_thread
from hashing.mapreduce import Data
from hashing.methods.itq import ITQ
from infra.executors import InProcess, Ray
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


def products(x, bits, n_iter):
    """Multiply as ITQ has to: V R, and its signs with V, in each iteration."""
    v, rotation = np.ascontiguousarray(x[:, :bits]), np.eye(bits, dtype=np.float32)
    for _ in range(n_iter):
        for start in range(0, len(v), 4096):
            part = v[start : start + 4096]
            part.T @ (part @ rotation)


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    with tempfile.TemporaryDirectory() as home:
        dataset = ingest(Spec(dataset=options.dataset), Settings(home=Path(home), data=Settings().data))
        shards = dataset.shards("base")[: None if options.full else options.shards]
        x = np.concatenate([batch.x for shard in shards for batch in shard]).astype(np.float32)
        size, part = (options.bits, options.iterations), x[:100_000]
        nearest = faiss.knn(part[:500], part, 11)[1][:, 1:]  # the first is the row itself
        kept = {}

        def keep(name, fit):
            kept[name] = fit()

        def compared(case, ours, peer, clock, **more):
            ways = {"ours": partial(keep, "ours", ours), "peer": partial(keep, "peer", peer), **more}
            seconds = measure.in_turns(ways, options.repeats, clock)
            quality = (
                f"{name}: alignment {alignment(x, weight):.5f}, recall {recall(part, weight, nearest):.3f}"
                for name, weight in kept.items()
            )
            return measure.row(f"{case}, {len(x):,} x {x.shape[1]} to {options.bits} bits, {options.iterations} "
                               "iterations", seconds, "s", note="; ".join(quality))  # fmt: skip

        with one_blas_thread():
            fit = partial(ours, InProcess(), shards, *size)
            peer = partial(faiss_itq, x, *size, 1)
            yield compared("one core", fit, peer, time.thread_time, limit=lambda: products(x, *size))
        if options.full:
            peer = partial(faiss_itq, x, *size, measure.cores())
            yield compared("all cores", partial(ours, Ray(), shards, *size), peer, time.perf_counter)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--dataset", default="photosift")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    peer, limit = "Faiss PCAMatrix and ITQMatrix", "the matrix products of the iterations"
    measure.run(__doc__, options, measured(options), peer=peer, limit=limit, packages=("faiss-cpu", "scipy"))


if __name__ == "__main__":
    main()
