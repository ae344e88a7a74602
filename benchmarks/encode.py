"""Encoding throughput in rows per second, compared with a minimal script in the same run.

    HASHKILN_DATA=… python benchmarks/encode.py [--dataset photosift] [--bits 64] [--repeats 5]

Both read the same shards and write the same codes to Parquet. The minimal script checks nothing, hashes nothing and
does not sync files; pyarrow and BLAS use all cores. Hashkiln checks every value and id, hashes its input and output,
and syncs files and folders, on one core (in process) and on all cores (Ray). The physical limit is reading the vectors;
its rate is shown as well.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hashing.functions import LinearHash
from infra.executors import InProcess, connect
from infra.settings import Settings
from storage.tables.parts import encode_shard
from workflows.datasets import ingest
from workflows.spec import Spec


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
    options = parser.parse_args()
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
