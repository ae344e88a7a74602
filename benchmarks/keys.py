"""What do string keys cost, to ids and back, as their list grows?

    python benchmarks/keys.py [--keys 10000000] [--shards 500] [--folder FOLDER] [--full]

Each shard has new random keys of 32 characters, which are given ids, as a run does; --full: 10^8 of them, for which
FOLDER needs 10 GB. The last shard of each tenth is then looked up. In the end, new processes look up keys, and turn ids
into keys, which have to be those of the ids. Times are processor times of all threads. Memory is what was resident at
most, pages of index files included, which the system can reclaim; the first new process shows what the libraries take.
"""

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import measure
import numpy as np
import pyarrow as pa

from storage.features import keys

HEX = np.array([list(f"{byte:02x}".encode()) for byte in range(256)], np.uint8)


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    n_keys, n = options.keys, options.keys // options.shards
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for shards in np.array_split(np.arange(options.shards), 10):
            columns = (names(shard, n) for shard in shards)
            given = [clocked(partial(keys.assign_ids, folder, column)) for column in columns]
            found = clocked(partial(keys.column_ids, folder, names(shards[-1], n), "here"))
            known = f"{shards[0] * n:,} to {(shards[-1] + 1) * n:,} keys known"
            yield measure.row(f"{known}: give a new key an id", {"ours": given}, "us", 1e6 / n)
            note = f"peak memory {resident():,.0f} MB"
            yield measure.row("the same: look up a key", {"ours": [found]}, "us", 1e6 / n, note=note)
        for name, pattern in (("keys", "*.parquet"), ("index files", "index/*")):
            size = sum(path.stat().st_size for path in Path(folder).glob(pattern)) / n_keys
            yield measure.Row(f"{name}, for each key on disk", "bytes", size, (size, size))
        yield in_new_process("nothing", int)[0]
        yield in_new_process("100 keys to ids", partial(keys.column_ids, folder, names(0, n)[:100], "here"))[0]
        ids = {
            "1 id to its key": np.array([n_keys // 2]),
            "10,000 random ids to keys": np.random.default_rng(0).integers(0, n_keys, 10_000),
            f"{n:,} ids in a row to keys": np.arange(n),
        }
        for case, asked in ids.items():
            row, found = in_new_process(case, partial(keys.keys_of, folder, asked))
            if (keys.column_ids(folder, found.combine_chunks(), "here") != asked).any():
                raise SystemExit(f"{case}: found other keys")
            yield row


def names(shard: int, n: int) -> Any:
    """Return the keys of a shard: random numbers of 128 bits in hexadecimal digits."""
    text = HEX[np.random.default_rng(shard).integers(0, 2**8, (n, 16), dtype=np.uint8)]
    ends = np.arange(0, 32 * n + 1, 32, dtype=np.int32)
    return pa.Array.from_buffers(pa.string(), n, [None, pa.py_buffer(ends), pa.py_buffer(text)])


def clocked(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def resident() -> float:
    """Return the largest resident memory of this process so far, in MB. Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000


def in_new_process(case: str, work: Callable[[], Any]) -> tuple[measure.Row, Any]:
    """Return a row of the processor time and the peak memory of a process that only does this, and what it returns."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seconds, peak, found = pool.submit(alone, work).result()
    note = f"peak memory {peak:,.0f} MB"
    return measure.row(f"in a new process: {case}", {"ours": [seconds]}, "ms", 1000, note=note), found


def alone(work: Callable[[], Any]) -> tuple[float, float, Any]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, resident(), found


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--keys", type=int, default=10**7)
    parser.add_argument("--shards", type=int, default=500)
    parser.add_argument("--folder", help="folder of the list of keys; temporary by default")
    options = parser.parse_args()
    options.keys = 10**8 if options.full else options.keys
    measure.run(__doc__, options, measured(options), packages=["pyarrow"])


if __name__ == "__main__":
    main()
