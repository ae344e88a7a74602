"""The cost per shard of a dataset with string keys, as the map from key to id grows.

    python benchmarks/keys.py --keys 10000000 --shards 500

Each shard has new random keys of 32 characters. They are assigned ids and then looked up, as a run does. For each tenth
of the shards the table shows the mean and the largest time per shard of both steps, and the peak memory of the process
so far: its own, and all resident memory, which includes pages of index files that the system can reclaim. At the end a
new process looks up keys of one shard. --rewritten R takes this share of each shard's keys from an earlier shard.
"""

import argparse
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from storage.features import keys


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=10**7)
    parser.add_argument("--shards", type=int, default=500)
    parser.add_argument("--rewritten", type=float, default=0)
    parser.add_argument("--folder", help="working folder; temporary by default")
    options = parser.parse_args()
    n = options.keys // options.shards
    print(f"{options.keys:,} keys in {options.shards} shards of {n:,}, {options.rewritten:.0%} of them known")
    print("| shards | assign ms | largest | look up ms | largest | own MB | resident MB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        costs, own, resident = [], 0, 0
        for shard in range(options.shards):
            column = keys_of(shard, n, options.rewritten)
            start = time.perf_counter()
            keys.assign_ids(folder, column)
            middle = time.perf_counter()
            keys.column_ids(folder, column, "here")
            costs.append((middle - start, time.perf_counter() - middle))
            own, resident = max(own, memory("RssAnon")), max(resident, memory("VmHWM"))
            if (shard + 1) * 10 % options.shards < 10:
                (a, b), (c, d) = np.mean(costs, 0) * 1e3, np.max(costs, 0) * 1e3
                first = shard + 2 - len(costs)
                print(f"| {first}-{shard + 1} | {a:.0f} | {c:.0f} | {b:.0f} | {d:.0f} | {own:.0f} | {resident:.0f} |")
                costs = []
        for name, suffix in (("parts", "*.parquet"), ("index files", "index/*")):
            size = sum(path.stat().st_size for path in Path(folder).glob(suffix))
            print(f"{name}: {size / options.keys:.0f} bytes per key")
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            print(f"a new process looks up a shard in {pool.submit(look_up, folder, n).result():.2f} s")


def keys_of(shard, n, rewritten):
    """Return the keys of a shard: some keys of the shard with half its number, and new ones."""
    old = int(n * rewritten) if shard else 0
    return pa.concat_arrays([names(shard // 2, n).slice(0, old), names(shard, n).slice(old)])


def names(shard, n):
    words = np.random.default_rng(shard).integers(0, 2**8, (n, 16), dtype=np.uint8)
    return pa.array([row.tobytes().hex() for row in words])


def look_up(folder, n):
    start = time.perf_counter()
    keys.find_ids(folder, names(0, n).to_pylist()[-100:], "here")
    return time.perf_counter() - start


def memory(name):
    """Return a value of /proc/self/status, in MB."""
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


if __name__ == "__main__":
    main()
