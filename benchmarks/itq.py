"""How fast is fitting ITQ, on one core and on all, and with the moments of 10^7 rows?

    HASHKILN_DATA=… python benchmarks/itq.py [--dataset photosift] [--shards 2] [--bits 64] [--iterations 50]
        [--full] [--rows 10000000]

Faiss: PCAMatrix, configured to use all rows, and ITQMatrix, from rows in memory, with the same number of iterations.
Hashkiln: from the Parquet shards, reading included; thread time in process. The alignment is the objective that ITQ
maximises: the mean of |VR| over the root mean square of VR. The recall is that of the 10 nearest rows of 500 rows among
the 100 rows with the nearest codes, of the first 100,000 rows. The limit is the matrix products: 4 n k^2 flops per
iteration.

--full also fits on all shards, on one core and on all cores, in wall-clock time: Ray compared with Faiss's threads.
Then it fits on 10^7 rows, on one core: the same rows again and again with noise, as uint8, written as `ingest` does.
The limit of the moments is reading the files, and the products x'x; that of ITQ is reading them twice, for the moments
and the projection, and all products. This takes 10 minutes, 1.5 GB of disk and 6 GB of memory.
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
from hashing.statistics import moments
from infra.executors import InProcess, Ray
from infra.settings import Settings
from storage.features.dataset import Dataset, write_split
from storage.formats import FeatureRows
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


def compared(options: argparse.Namespace, shards, all_cores: bool) -> Iterator[measure.Row]:
    """Yield how long Hashkiln and Faiss take to fit on the rows of shards, on one core and, if asked, on all."""
    x = np.concatenate([batch.x for shard in shards for batch in shard]).astype(np.float32)
    size, part = (options.bits, options.iterations), x[:100_000]
    nearest = faiss.knn(part[:500], part, 11)[1][:, 1:]  # the first is the row itself
    kept = {}

    def keep(name, fit):
        kept[name] = fit()

    def case(name, fit, peer, clock, **more):
        ways = {"ours": partial(keep, "ours", fit), "peer": partial(keep, "peer", peer), **more}
        seconds = measure.in_turns(ways, options.repeats, clock)
        quality = (
            f"{name}: alignment {alignment(x, weight):.5f}, recall {recall(part, weight, nearest):.3f}"
            for name, weight in kept.items()
        )
        return measure.row(f"{name}, {len(x):,} x {x.shape[1]} to {options.bits} bits, {options.iterations} iterations",
                           seconds, "s", note="; ".join(quality))  # fmt: skip

    with one_blas_thread():
        fit, peer = partial(ours, InProcess(), shards, *size), partial(faiss_itq, x, *size, 1)
        yield case("one core", fit, peer, time.thread_time, limit=lambda: products(x, *size))
    if all_cores:
        peer = partial(faiss_itq, x, *size, measure.cores())
        yield case("all cores", partial(ours, Ray(), shards, *size), peer, time.perf_counter)


def again_with_noise(shards, rows):
    """Yield the rows of shards as often as needed, with noise of -3 to 3 that the number of the row determines."""
    done = 0
    while done < rows:
        for batch in (batch for shard in shards for batch in shard):
            x = batch.x[: rows - done]
            noise = np.random.default_rng(done).integers(-3, 4, x.shape)
            yield FeatureRows(np.arange(done, done + len(x)), np.clip(x + noise, 0, 255).astype(np.uint8))
            done += len(x)


def read(shards):
    for shard in shards:
        for _ in shard.read_blocks():
            pass


def repeated(rows, block, multiply):
    for _ in range(0, rows, len(block)):
        multiply(block)


def clocks():
    """Return the processor time and the time by the clock."""
    return np.array([time.process_time(), time.perf_counter()])


def many_rows(options: argparse.Namespace, shards, home: str) -> Iterator[measure.Row]:
    rows, d = options.rows, shards[0].dim
    write_split(f"{home}/many", again_with_noise(shards, rows))
    many = Dataset(name="many", dim=d, splits={"base": f"{home}/many"}, source="").shards("base")
    rng = np.random.default_rng(0)
    block, basis = rng.standard_normal((1024, d)), rng.standard_normal((d, options.bits))
    ways = {
        "ours": lambda: moments(Data(many, InProcess())),
        "read": lambda: read(many),
        "gram": lambda: repeated(rows, block, lambda x: x.T @ x),
        "projection": lambda: repeated(rows, block, lambda x: x @ basis),
    }
    seconds = measure.in_turns(ways, options.repeats, clocks)

    def reported(name, found, *parts):
        limit = {"limit": [sum(part[0] for part in each) for each in zip(*parts, strict=True)]} if parts else {}
        note = f"{np.median([both[1] for both in found]):.3g} s by the clock"
        own = {"ours": [both[0] for both in found]}
        return measure.row(f"one core, {rows:,} x {d} uint8: {name}", own | limit, "s", note=note)

    yield reported("reading and checking alone", seconds["read"])
    yield reported("products of the moments alone", seconds["gram"])
    yield reported("moments; limit: reading and products", seconds["ours"], seconds["read"], seconds["gram"])
    v = rng.standard_normal((rows, options.bits), np.float32)
    size, start = (options.bits, options.iterations), clocks()
    products(v, *size)
    iterations = clocks() - start
    del v
    start = clocks()
    ours(InProcess(), many, *size)
    fit = clocks() - start
    limit = [[np.median(seconds[way], axis=0)] for way in ("read", "read", "gram", "projection")]
    name = f"ITQ to {options.bits} bits, {options.iterations} iterations"
    yield reported(f"products of {name}, alone", [iterations])
    yield reported(f"{name}; limit: reading twice, and all products", [fit], [iterations], *limit)


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    with tempfile.TemporaryDirectory(dir=options.folder) as home:
        dataset = ingest(Spec(dataset=options.dataset), Settings(home=Path(home), data=Settings().data))
        shards = dataset.shards("base")
        yield from compared(options, shards[: options.shards], all_cores=False)
        if options.full:
            yield from compared(options, shards, all_cores=True)
            with one_blas_thread():
                yield from many_rows(options, shards, home)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--dataset", default="photosift")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rows", type=int, default=10**7, help="with --full")
    parser.add_argument("--folder", help="working folder; temporary by default")
    options = parser.parse_args()
    peer, limit = "Faiss PCAMatrix and ITQMatrix", "the matrix products of the iterations"
    measure.run(__doc__, options, measured(options), peer=peer, limit=limit, packages=("faiss-cpu", "scipy"))


if __name__ == "__main__":
    main()
