"""Encoding throughput in rows per second: of one core, and compared with a minimal script in the same run.

    HASHKILN_DATA=… python benchmarks/encode.py [--dataset photosift] [--bits 64] [--repeats 5] [--only one-core]

**One core.** Random float32 vectors in a Parquet file with pyarrow's default options. Rows per second of CPU time, with
the process on one core and the file in memory. Reading is compared with pyarrow, encoding a file into a part with Faiss
encoding vectors in memory. No encoder that reads a file can be faster than its matrix product and the reading of the
file one after the other: that is the limit.

**All cores.** Both read the same shards and write the same codes to Parquet. The minimal script checks nothing, hashes
nothing and does not sync files; pyarrow and BLAS use all cores. Hashkiln checks every value and id, hashes its input
and output, and syncs files and folders, on one core (in process) and on all cores (Ray). The physical limit is reading
the vectors; its rate is shown as well.
"""

import argparse
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashing.families import LinearHash
from hashing.mapreduce import one_blas_thread
from infra.executors import InProcess, connect
from infra.settings import Settings
from storage.features.shard import Columns, FeatureShard
from storage.files import filesystem
from storage.tables.parts import encode_shard
from workflows.datasets import ingest
from workflows.spec import Spec

ONE_CORE = [(128, 64), (128, 256), (768, 256)]  # d, bits
FILE_BYTES = 2**28


def by_pyarrow(path):
    for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(2**15, use_threads=False):
        batch["vector"].flatten().to_numpy().reshape(len(batch), -1)


def by_hashkiln(shard):
    for _ in shard.read_blocks():
        pass


def product(x, weight):
    for start in range(0, len(x), 4096):
        x[start : start + 4096] @ weight


def one_core(d, n_bits, repeats):
    rng, n = np.random.default_rng(0), FILE_BYTES // (4 * d)
    x = rng.standard_normal((n, d), np.float32)
    function = LinearHash(rng.standard_normal((d, n_bits)), rng.standard_normal(n_bits))
    index = faiss.IndexLSH(d, n_bits, True, False)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/0.parquet"
        vectors = pa.ListArray.from_arrays(pa.array(np.arange(0, x.size + 1, d), pa.int32()), pa.array(x.reshape(-1)))
        pq.write_table(pa.table({"id": np.arange(n), "vector": vectors}), path)
        shard = FeatureShard(path, "0", filesystem.stat(path).version, d, Columns())
        ways = {
            "product in memory": lambda: product(x, function.weight),
            "pyarrow reads": lambda: by_pyarrow(path),
            "Hashkiln reads and checks": lambda: by_hashkiln(shard),
            "Faiss IndexLSH encodes from memory": lambda: index.sa_encode(x),
            "Hashkiln encodes from the file": lambda: encode_shard(shard, function, folder),
        }
        seconds = {name: [] for name in ways}
        for repeat in range(repeats + 1):
            for name, way in ways.items():
                start = time.process_time()
                with one_blas_thread():  # as in a task
                    way()
                if repeat:  # the first run warms up
                    seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    medians["limit: product, after reading"] = medians["product in memory"] + medians["Hashkiln reads and checks"]
    ours = medians["Hashkiln encodes from the file"]
    print(f"\n{n:,} rows of {d} float32 to {n_bits} bits on one core, median of {repeats}\n")
    print("| | million rows / s | encoding, relative to it |\n|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {n / median / 1e6:.3f} | {median / ours:.2f} |")


def read(path):
    column = pq.read_table(path)["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def minimal_script(shards, function, folder):
    for number, shard in enumerate(shards):
        table = pq.read_table(shard.url)
        x = table["vector"].combine_chunks().flatten().to_numpy().reshape(len(table), -1).astype(np.float32)
        codes = np.packbits(x @ function.weight >= function.threshold, axis=1, bitorder="little")
        column = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(codes.shape[1]), len(codes), [None, pa.py_buffer(codes)]
        )
        out = pa.table({"id": table["id"].combine_chunks(), "code": column})
        pq.write_table(out, folder / f"{number}.parquet", compression="none", use_dictionary=False)


def ours(executor, shards, function, folder):
    list(executor.map(partial(encode_shard, function=function, folder=str(folder)), shards))


def reading(shards, function, folder):
    for shard in shards:
        read(shard.url)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="photosift")
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["one-core", "all-cores"])
    options = parser.parse_args()
    if options.only != "all-cores":
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        faiss.omp_set_num_threads(1)
        for d, n_bits in ONE_CORE:
            one_core(d, n_bits, options.repeats)
        os.sched_setaffinity(0, cores)
    if options.only != "one-core":
        all_cores(options)


def all_cores(options):
    settings = Settings()
    shards = ingest(Spec(dataset=options.dataset), settings).shards("base")
    rng = np.random.default_rng(0)
    function = LinearHash(rng.standard_normal((shards[0].dim, options.bits)), rng.standard_normal(options.bits))
    ray = connect(settings)
    ray.join()
    ways = {
        "minimal script": minimal_script,
        "Hashkiln, in process": partial(ours, InProcess()),
        "Hashkiln, Ray": partial(ours, ray),
        "reading only": reading,
    }
    seconds = {name: [] for name in ways}
    rows = sum(shard.rows for shard in shards)
    for repeat in range(options.repeats + 1):
        for name, way in ways.items():
            with tempfile.TemporaryDirectory() as folder:
                start = time.perf_counter()
                way(shards, function, Path(folder))
                if repeat:  # the first run warms up
                    seconds[name].append(time.perf_counter() - start)
    print(
        f"{rows:,} rows of {options.dataset}, {options.bits} bits, {len(shards)} shards, median of {options.repeats}\n"
    )
    print("| | rows / s | relative to the script |\n|---|---|---|")
    base = statistics.median(seconds["minimal script"])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"| {name} | {rows / median:,.0f} | {base / median:.2f} |")


if __name__ == "__main__":
    main()
