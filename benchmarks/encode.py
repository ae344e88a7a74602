"""How fast is encoding Parquet files: on one core, with two workers, from S3, and on all cores?

    HASHKILN_DATA=… python benchmarks/encode.py [--dataset photosift] [--bits 64] [--repeats 3]
        [--only one-core|memory|workers|s3|all-cores] [--url s3://bucket/folder]

**One core.** Random float32 vectors in a Parquet file with pyarrow's default options. Time is that of the process,
which runs on one core, and the file is in memory. Reading is compared with pyarrow, encoding a file into a part with
Faiss encoding vectors in memory. No encoder that reads a file can be faster than its matrix product and the reading of
the file one after the other: that is the limit.

**Memory.** The peak memory of a process that encodes a file of one row group, whatever the size of the file.

**Workers.** Ray tasks that encode Parquet files, one for each core; the peer is one at a time, on one core. If more
workers need no more processor time for a row, the rate grows with the cores: what is left is waiting, for the disk and
for other programs.

**S3.** One process encodes files in the folder at `--url`, which the environment gives access to, or in a bucket of
SeaweedFS, which runs on the same cores. The peer is encoding the same files from the local disk. The limit is doing
that while a thread reads their bytes from S3, without decoding them, by as many connections.

**All cores.** Two programs read the same shards and write the same codes to Parquet; wall-clock time. The minimal
script checks nothing, hashes nothing and does not sync files; pyarrow and BLAS use all cores. Hashkiln checks every
value and id, hashes its input and output, and syncs files and folders, in one process or by Ray workers on all cores.
The limit is reading the vectors.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import faiss
import local_s3
import measure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashing.blas import one_blas_thread
from hashing.families import LinearHash
from hashing.mapreduce import Batch
from infra.executors import InProcess, Ray
from infra.settings import Settings
from storage.features import splits
from storage.features.rows import Columns
from storage.features.shard import FeatureShard
from storage.files import filesystem, parquet
from storage.formats import FeatureRows
from storage.tables.parts import encode_shard
from storage.tables.source_digest import NEWEST, SOURCE_DIGESTS, update_digest
from workflows.datasets import ingest
from workflows.spec import Spec

REMARKS = """
Workers: if a row takes as much processor time with two workers as with one, the rate grows with the cores. What is
missing by the clock is waiting for the disk, for Ray and for other programs.

S3: the server and the encoder share the cores, and serving and receiving 1 GB takes about 2 seconds of one. So files
come nearly as fast as from the disk where a row is much to compute; elsewhere, what the cores can do at once is the
limit.
"""
ONE_CORE = [(128, 64), (128, 256), (768, 256)]  # d, bits
FILE_BYTES = 2**28


def by_pyarrow(path):
    for batch in pq.ParquetFile(path, pre_buffer=False).iter_batches(2**15, use_threads=False):
        batch["vector"].flatten().to_numpy().reshape(len(batch), -1)


def product(x, weight):
    for start in range(0, len(x), 4096):
        x[start : start + 4096] @ weight


def digest(ids, x):
    content = SOURCE_DIGESTS[NEWEST][1]()
    for start in range(0, len(x), 2**15):
        update_digest(content, Batch(ids[start : start + 2**15], x[start : start + 2**15]))


def consume(items):
    for _ in items:
        pass


def write_default(url, x, folder):
    """Write vectors with pyarrow's default options to a URL, in one row group, and return them as a shard."""
    n, d = x.shape
    vectors = pa.ListArray.from_arrays(pa.array(np.arange(0, x.size + 1, d), pa.int32()), pa.array(x.reshape(-1)))
    path = Path(folder, "written.parquet")
    pq.write_table(pa.table({"id": np.arange(n), "vector": vectors}), path, row_group_size=n)
    filesystem.write_bytes(url, path.read_bytes())
    path.unlink()
    return FeatureShard(url, url.rpartition("/")[2], filesystem.stat(url).version, d, Columns())


def write_own(url, x):
    """Write vectors as `hashkiln ingest` does, and return them as a shard."""
    splits.write_shard(url, [FeatureRows(np.arange(len(x)), x, None)], 0)
    return FeatureShard(url, "0", filesystem.stat(url).version, x.shape[1], Columns())


def one_core(d: int, n_bits: int, repeats: int) -> Iterator[measure.Row]:
    rng, n = np.random.default_rng(0), FILE_BYTES // (4 * d)
    x = rng.standard_normal((n, d), np.float32)
    function = LinearHash(rng.standard_normal((d, n_bits)), rng.standard_normal(n_bits))
    index = faiss.IndexLSH(d, n_bits, True, False)
    with tempfile.TemporaryDirectory() as folder, one_blas_thread():  # as in a task
        shard, own = write_default(f"{folder}/0.parquet", x, folder), write_own(f"{folder}/own.parquet", x)
        integers = write_own(f"{folder}/integers.parquet", np.clip(64 * x + 128, 0, 255).astype(np.uint8))
        ways = {
            "product": lambda: product(x, function.weight),
            "our product": lambda: consume(function.blocks(x)),
            "digest": lambda: digest(np.arange(n), x),
            "pyarrow": lambda: by_pyarrow(shard.url),
            "read": lambda: consume(shard.read_blocks()),
            "own": lambda: consume(own.read_blocks()),
            "integers": lambda: consume(integers.read_blocks()),
            "peer": lambda: index.sa_encode(x),
            "ours": lambda: encode_shard(shard, function, folder),
        }
        seconds = measure.in_turns(ways, repeats, time.process_time)
    case = f"one core, {n:,} rows of {d} float32"
    reading = {"ours": seconds["read"], "peer": seconds["pyarrow"]}
    yield measure.row(f"{case}: read and check; peer: pyarrow reads", reading, "Mrow/s", n / 1e6)
    limit = [
        min(parts[:2]) + parts[2]
        for parts in zip(*(seconds[w] for w in ("product", "our product", "read")), strict=True)
    ]
    yield measure.row(f"{case} to {n_bits} bits; peer: Faiss IndexLSH from memory; limit: product and reading",
                      seconds | {"limit": limit}, "Mrow/s", n / 1e6)  # fmt: skip
    parts = {
        "ours": "all", "read": "reading and checking", "our product": "product", "digest": "digest",
        "own": "reading and checking a shard written by ingest", "integers": "the same, of uint8",
    }  # fmt: skip
    for way, name in parts.items():
        peer = {"peer": seconds["product"]} if way == "our product" else {}
        note = "peer: numpy" if peer else ""
        found = {"ours": seconds[way], **peer}
        yield measure.row(f"{case} to {n_bits} bits: {name}", found, "ns/row", 1e9 / n, note=note)


def peak(shard, function, folder):
    """Return the peak memory of this process in bytes, after encoding a shard."""
    encode_shard(shard, function, folder)
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])  # getrusage counts the process that started this one, too


def memory(options: argparse.Namespace) -> Iterator[measure.Row]:
    d = 128
    function = LinearHash(np.random.default_rng(0).standard_normal((d, options.bits)), np.zeros(options.bits))
    for size in (2**22, 2**26, 2**28, *([2**30] if options.full else [])):
        with tempfile.TemporaryDirectory() as folder:
            x = np.random.default_rng(0).standard_normal((size // (4 * d), d), np.float32)
            shard = write_default(f"{folder}/0.parquet", x, folder)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                most = pool.apply(peak, (shard, function, folder))
        yield measure.row(f"peak memory, {size / 1e6:.0f} MB in one row group", {"ours": [most / 1e6]}, "MB")


def default_files(count, d, n_bits):
    """Return vectors of d float32, the number of their rows in `count` files, and a function that hashes them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((FILE_BYTES // (4 * d), d), np.float32)
    return x, count * len(x), LinearHash(rng.standard_normal((d, n_bits)), np.zeros(n_bits))


def on_cores(cores, fn, item):
    """Call fn(item) in this process, which runs on some cores from now on, and return its processor time in seconds."""
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), cores)
    start = time.process_time()
    fn(item)
    return time.process_time() - start


def workers(options: argparse.Namespace) -> Iterator[measure.Row]:
    files, cores = 16, sorted(os.sched_getaffinity(0))
    x, rows, function = default_files(files, 128, options.bits)
    executors = {"ours": (cores, Ray()), "peer": (cores[:1], Ray(in_flight=1))}
    processor: dict[str, list[float]] = {name: [] for name in executors}
    with tempfile.TemporaryDirectory() as folder:
        shards = [write_default(f"{folder}/{i}.parquet", x, folder) for i in range(files)]
        encode = partial(encode_shard, function=function, folder=folder)

        def run(name):
            some, executor = executors[name]
            processor[name].append(sum(executor.map(partial(on_cores, some, encode), shards)))

        ways = {name: partial(run, name) for name in executors}
        seconds = measure.in_turns(ways, options.repeats, time.perf_counter)
    case = f"{rows:,} rows of 128 float32 to {options.bits} bits, {len(cores)} Ray workers; peer: one, on one core"
    yield measure.row(case, seconds, "Mrow/s", rows / 1e6)
    warm = {name: found[1:] for name, found in processor.items()}
    yield measure.row(f"{case}: processor time of the tasks", warm, "ns/row", 1e9 / rows)


def s3(options: argparse.Namespace) -> Iterator[measure.Row]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        url = options.url or stack.enter_context(local_s3.bucket(folder))
        for d, n_bits in ((128, 64), (768, 768)):
            yield from from_s3(url.rstrip("/"), d, n_bits, folder, options.repeats)


def from_s3(url: str, d: int, n_bits: int, folder: str, repeats: int) -> Iterator[measure.Row]:
    files = 4
    x, rows, function = default_files(files, d, n_bits)
    local = [write_default(f"{folder}/{i}.parquet", x, folder) for i in range(files)]
    remote = [write_default(f"{url}/{i}.parquet", x, folder) for i in range(files)]

    def from_disk():
        ours(InProcess(), local, function, folder)

    def bytes_of_all():
        consume(map(read_bytes, remote))

    def both():
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(bytes_of_all)
            from_disk()
            reading.result()

    ways = {
        "ours": lambda: ours(InProcess(), remote, function, folder),
        "peer": from_disk,
        "limit": both,
        "bytes": bytes_of_all,
    }
    seconds = measure.in_turns(ways, repeats, time.perf_counter)
    for shard in remote:
        filesystem.remove(shard.url)
    case = f"{rows:,} rows of {d} float32"
    yield measure.row(f"{case}, their bytes from S3", {"ours": seconds["bytes"]}, "Mrow/s", rows / 1e6)
    case += f" to {n_bits} bits, from S3; peer: from the local disk; limit: that beside the bytes from S3"
    yield measure.row(case, seconds, "Mrow/s", rows / 1e6)


def read_bytes(shard):
    """Read a file in the windows and by as many threads as its vectors are read."""
    fs, path = filesystem.arrow(shard.url)
    with fs.open_input_file(path) as file, ThreadPoolExecutor(parquet.AHEAD) as pool:
        starts = range(0, file.size(), parquet.REMOTE_WINDOW)
        consume(pool.map(lambda start: len(file.read_at(parquet.REMOTE_WINDOW, start)), starts))


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


def all_cores(options: argparse.Namespace) -> Iterator[measure.Row]:
    with tempfile.TemporaryDirectory() as home:
        yield from in_home(options, home)


def in_home(options: argparse.Namespace, home: str) -> Iterator[measure.Row]:
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


def on_one_core(options: argparse.Namespace) -> Iterator[measure.Row]:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    faiss.omp_set_num_threads(1)
    for d, n_bits in ONE_CORE:
        yield from one_core(d, n_bits, options.repeats)
    os.sched_setaffinity(0, cores)


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    for name, part in PARTS.items():
        if options.only in (None, name):
            yield from part(options)


PARTS = {"one-core": on_one_core, "memory": memory, "workers": workers, "s3": s3, "all-cores": all_cores}


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--dataset", default="photosift")
    parser.add_argument("--bits", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--url", help="folder in a bucket of S3; without it, an S3 server is started here")
    options = parser.parse_args()
    peer = limit = "named in each row"
    packages = "numba", "faiss-cpu", "pyarrow", "ray"
    measure.run(__doc__, options, measured(options), peer=peer, limit=limit, packages=packages, remarks=REMARKS)


if __name__ == "__main__":
    main()
