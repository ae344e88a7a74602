"""How fast is encoding Parquet files: on one core, and on all?

    HASHKILN_DATA=… python benchmarks/encode.py [--dataset photosift] [--bits 64] [--repeats 3]

**One core.** Random float32 vectors in a Parquet file with pyarrow's default options. Time is that of the process,
which runs on one core, and the file is in memory. Reading is compared with pyarrow, encoding a file into a part with
Faiss encoding vectors in memory. No encoder that reads a file can be faster than its matrix product and the reading of
the file one after the other: that is the limit.

**All cores.** Two programs read the same shards and write the same codes to Parquet; wall-clock time. The minimal
script checks nothing, hashes nothing and does not sync files; pyarrow and BLAS use all cores. Hashkiln checks every
value and id, hashes its input and output, and syncs files and folders, in one process or by Ray workers on all cores.
The limit is reading the vectors.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import faiss
import measure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashing.families import LinearHash
from hashing.mapreduce import one_blas_thread
from infra.executors import InProcess, Ray
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


def one_core(d: int, n_bits: int, repeats: int) -> Iterator[measure.Row]:
    rng, n = np.random.default_rng(0), FILE_BYTES // (4 * d)
    x = rng.standard_normal((n, d), np.float32)
    function = LinearHash(rng.standard_normal((d, n_bits)), rng.standard_normal(n_bits))
    index = faiss.IndexLSH(d, n_bits, True, False)
    with tempfile.TemporaryDirectory() as folder, one_blas_thread():  # as in a task
        path = f"{folder}/0.parquet"
        vectors = pa.ListArray.from_arrays(pa.array(np.arange(0, x.size + 1, d), pa.int32()), pa.array(x.reshape(-1)))
        pq.write_table(pa.table({"id": np.arange(n), "vector": vectors}), path)
        shard = FeatureShard(path, "0", filesystem.stat(path).version, d, Columns())
        ways = {
            "product": lambda: product(x, function.weight),
            "pyarrow": lambda: by_pyarrow(path),
            "read": lambda: by_hashkiln(shard),
            "peer": lambda: index.sa_encode(x),
            "ours": lambda: encode_shard(shard, function, folder),
        }
        seconds = measure.in_turns(ways, repeats, time.process_time)
    case = f"one core, {n:,} rows of {d} float32"
    reading = {"ours": seconds["read"], "peer": seconds["pyarrow"]}
    yield measure.row(f"{case}: read and check; peer: pyarrow reads", reading, "Mrow/s", n / 1e6)
    limit = [sum(parts) for parts in zip(seconds["product"], seconds["read"], strict=True)]
    yield measure.row(f"{case} to {n_bits} bits; peer: Faiss IndexLSH from memory; limit: product and reading",
                      seconds | {"limit": limit}, "Mrow/s", n / 1e6)  # fmt: skip


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


def all_cores(options: argparse.Namespace, home: str) -> Iterator[measure.Row]:
    shards = ingest(Spec(dataset=options.dataset), Settings(home=Path(home), data=Settings().data)).shards("base")
    rng = np.random.default_rng(0)
    function = LinearHash(rng.standard_normal((shards[0].dim, options.bits)), rng.standard_normal(options.bits))
    folder = Path(home, "codes")
    folder.mkdir()
    ways = {
        "script": lambda: minimal_script(shards, function, folder),
        "one process": lambda: ours(InProcess(), shards, function, folder),
        "workers": lambda: ours(ray, shards, function, folder),
        "limit": lambda: reading(shards, function, folder),
    }
    ray = Ray()
    seconds = measure.in_turns(ways, options.repeats, time.perf_counter)
    rows = sum(shard.rows for shard in shards)
    for mine, peer in (("one process", "script"), ("workers", "script"), ("workers", "one process")):
        found = {"ours": seconds[mine], "peer": seconds[peer], "limit": seconds["limit"]}
        case = f"all cores, {rows:,} rows of {options.dataset} to {options.bits} bits, {mine}; peer: {peer}"
        yield measure.row(f"{case}; limit: reading", found, "Mrow/s", rows / 1e6)


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    faiss.omp_set_num_threads(1)
    for d, n_bits in ONE_CORE:
        yield from one_core(d, n_bits, options.repeats)
    os.sched_setaffinity(0, cores)
    with tempfile.TemporaryDirectory() as home:
        yield from all_cores(options, home)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--dataset", default="photosift")
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    peer = limit = "named in each row"
    packages = "numba", "faiss-cpu", "pyarrow", "ray"
    measure.run(__doc__, options, measured(options), peer=peer, limit=limit, packages=packages)


if __name__ == "__main__":
    main()
