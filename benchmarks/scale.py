"""Do time and memory per unit stay flat as rows, queries and bits grow?

    python benchmarks/scale.py [--largest 10000000] [--full]

One core. Encoding and moments read a Parquet file of 32 float32 values a row, which holds the same 100,000 rows again
and again; the other operations work on random codes of 64 bits, or vectors, in memory. Each axis varies one size: rows
(for 1,000 queries; 100 of exact neighbours), queries (for 100,000 rows) and bits (for 200,000 rows x 1,000 queries).
Time is that of the process. Memory is the peak of the process above what it held before, on Linux only. --full goes to
10^8 rows, which takes some minutes and 14 GB of disk. The axis of shards is that of benchmarks/reindex.py.
"""

import argparse
import ctypes
import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import measure
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashing.blas import one_blas_thread
from hashing.families import LinearHash
from hashing.hamming import scan
from hashing.mapreduce import Batch, Data
from hashing.neighbours.exact import NearestNeighbours
from hashing.statistics import moments
from infra.executors import InProcess
from storage.features.shard import Columns, FeatureShard
from storage.files import filesystem
from storage.tables.parts import encode_shard

D, BLOCK = 32, 100_000
REMARKS = """
Rows: every operation reads or visits one block of rows after the other, so time per row or pair does not depend on
their number; small inputs also pay for opening a file and starting a scan. Memory does not grow either, except in
encoding: a part is named by its content, so the ids and codes of a whole file are held three times, about 50 bytes per
row at 64 bits. A large source is many files.

Queries: a scan visits blocks of rows for blocks of queries, so time per pair is flat. Results are linear in the
queries: bits + 1 counts, or k rows, of each. Evaluation counts by blocks of queries, of at most 64 MiB of counts.

Bits: time is per pair and word of 64 bits, at least one. Below 64 bits it falls less than the bits do, because what
follows the population count is the same for each pair; longer codes share that over more words.
"""


def cost(run: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the process, and the MiB at its peak above those before."""
    before = peak(reset=True)
    start = time.process_time()
    with one_blas_thread():
        run()
    return time.process_time() - start, max(0.0, peak() - before)


def peak(reset: bool = False) -> float:
    """Return the most MiB that the process has held since the last reset; 0 except on Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if reset:  # and give back what is free, or its use would not be seen
        gc.collect()
        pa.default_memory_pool().release_unused()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


def points(axis: str, x: int, series: str, unit: str, units: float, run: Callable[[], object]) -> Iterator:
    """Yield the time per unit and the memory of a call, medians of three for small inputs."""
    found = [cost(run) for _ in range(3 if units < 3e8 else 1)]
    seconds, memory = np.median(found, axis=0)
    yield measure.Point(axis, "ns per unit", f"{series}, per {unit}", x, 1e9 * seconds / units)
    yield measure.Point(axis, "MiB at the peak", series, x, max(memory, 0.1))


def file_of(rows: int, folder: str) -> FeatureShard:
    x = np.random.default_rng(0).standard_normal((BLOCK, D), np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), D)
    path = f"{folder}/{rows}.parquet"
    fields = {"id": pa.int64(), "vector": vectors.type}
    with pq.ParquetWriter(path, pa.schema(fields), use_dictionary=False, compression="none") as writer:
        for start in range(0, rows, BLOCK):
            writer.write_table(pa.table({"id": np.arange(start, start + BLOCK), "vector": vectors}))
    return FeatureShard(path, "0", filesystem.stat(path).version, D, Columns())


def codes(n: int, n_bits: int) -> np.ndarray:
    return np.random.default_rng(n + n_bits).integers(0, 256, (n, n_bits // 8), dtype=np.uint8)


def scans(axis: str, x: int, rows: np.ndarray, queries: np.ndarray, words: float = 1) -> Iterator:
    n_bits, units = 8 * rows.shape[1], len(rows) * len(queries) * words
    unit = "pair and word" if words != 1 or axis == "bits" else "pair"
    yield from points(axis, x, "top 10", unit, units, partial(scan.topk, queries, rows, 10))
    yield from points(axis, x, "histogram", unit, units, partial(scan.histogram, queries, rows, n_bits))


def by_rows(n: int, folder: str) -> Iterator:
    shard, rng = file_of(n, folder), np.random.default_rng(1)
    function = LinearHash(rng.standard_normal((D, 64)), rng.standard_normal(64))
    yield from points("rows", n, "encode a file", "row", n, partial(encode_shard, shard, function, folder))
    yield from points("rows", n, "moments of a file", "row", n, partial(moments, Data([shard], InProcess())))
    Path(shard.url).unlink()
    yield from scans("rows", n, codes(n, 64), codes(1000, 64))
    if n <= 10**7:
        x, queries = rng.random((n, D), np.float32), rng.random((100, D), np.float32)
        shard = [Batch(np.arange(i, min(i + BLOCK, n)), x[i : i + BLOCK]) for i in range(0, n, BLOCK)]
        nearest = NearestNeighbours(queries, np.arange(-100, 0), 100)
        run = partial(Data([shard], InProcess()).reduce, nearest)
        yield from points("rows", n, "100 exact neighbours", "pair", 100 * n, run)


def measured(options: argparse.Namespace) -> Iterator:
    list(scans("", 0, codes(100, 64), codes(10, 64)))  # compiles the kernels
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        list(by_rows(BLOCK, folder))
        largest = options.largest or (10**8 if options.full else 10**7)
        for power in range(5, int(np.log10(largest)) + 1):
            yield from by_rows(10**power, folder)
    for power in range(2, 6):
        yield from scans("queries", 10**power, codes(100_000, 64), codes(10**power, 64))
    for n_bits in (16, 32, 64, 128, 256, 512, 1024):
        yield from scans("bits", n_bits, codes(200_000, n_bits), codes(1000, n_bits), max(1, n_bits / 64))


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--largest", type=int, help="number of rows; default: 10^7, or 10^8 with --full")
    parser.add_argument("--folder", help="working folder; temporary by default")
    options = parser.parse_args()
    packages = "numba", "pyarrow"
    measure.run(__doc__, options, measured(options), packages=packages, remarks=REMARKS)


if __name__ == "__main__":
    main()
