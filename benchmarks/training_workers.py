"""What each of several training workers reads, and what that costs, with the rows stored once and without.

    python benchmarks/training_workers.py [--workers 1 4 8] [--rows 40000] [--dim 128] [--epochs 5]

The workers are processes of this machine, connected by gloo, each with one thread. They train an mlp from Parquet
shards. Seconds are CPU seconds of one worker, whatever the number of cores: `reading` the shards, all that
`batches` need (reading, storing, shuffling, cutting, and gloo's own threads), and `steps`.
"""

import argparse
import hashlib
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch.distributed as dist
import torch.multiprocessing as mp

from hashing.deep import sgd, stored
from hashing.deep.method import facts
from hashing.mapreduce import Data
from hashing.methods.dpsh import DPSH
from infra.executors import InProcess
from storage.features.dataset import Columns, Dataset, write_split
from storage.formats import FeatureRows

CLASSES = 10


@dataclass
class Counted:
    """A shard that counts the rows that are read from it, and the CPU time of reading."""

    shard: object
    rows: int = 0
    seconds: float = 0.0

    def __iter__(self):
        batches, start = iter(self.shard), time.thread_time()
        while (batch := next(batches, None)) is not None:
            self.rows, self.seconds = self.rows + len(batch.ids), self.seconds + time.thread_time() - start
            yield batch
            start = time.thread_time()


@dataclass
class Process:
    """A worker: this process."""

    rank: int
    world: int
    state: bytes = b""
    told: list = field(default_factory=list)
    device, threads = "cpu", 1

    def latest(self):
        return None

    def report(self, epochs, most, state):
        self.state, self.told = state, list(epochs)


def method(epochs):
    return DPSH(n_bits=32, epochs=epochs, patience=epochs, batch_size=128, validation=0.0)


def train(rank, world, folder, once, shards, known, epochs, results):
    if world > 1:
        dist.init_process_group("gloo", f"file://{folder}", rank=rank, world_size=world)
    if not once:
        stored.SPARE = float("inf")
    counted, worker = [Counted(shard) for shard in shards], Process(rank, world)
    start, total = time.thread_time(), time.process_time()
    sgd.train(worker, method(epochs), counted, known, None, None, {})
    step = time.thread_time() - start
    batches = time.process_time() - total - step
    parameters, told = sgd.outcome(worker.state)
    digest = hashlib.sha256(b"".join(part.tobytes() for part in parameters)).hexdigest()[:8]
    read = sum(shard.rows for shard in counted), sum(shard.seconds for shard in counted)
    results.put((*read, batches, step, digest, told[-1]["loss"]))
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


def blocks(n, dim):
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CLASSES, dim))
    for start in range(0, n, 1000):
        labels = rng.integers(CLASSES, size=1000)
        x = (centres[labels] + rng.normal(size=(1000, dim))).astype(np.float32)
        yield FeatureRows(np.arange(start, start + 1000), x, [[int(label)] for label in labels])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    context = mp.get_context("spawn")
    head = "| workers | shards read | rows of a worker | reading, s | batches, s | steps, s | batches / steps | model |"
    print(head + "\n" + "|---" * 8 + "|")
    with tempfile.TemporaryDirectory() as folder:
        write_split(f"{folder}/base", blocks(options.rows, options.dim), options.rows // 16)
        dataset = Dataset(
            name="blobs",
            dim=options.dim,
            splits={"base": f"{folder}/base"},
            columns=Columns(labels="labels"),
            source="",
        )
        shards = dataset.shards("base", tuple(range(CLASSES)))
        known = facts(Data(shards, InProcess()), method(options.epochs))
        for world in options.workers:
            for once in (False, True):
                results = context.Queue()
                meet = str(Path(folder, f"{world}-{once}"))
                arguments = (world, meet, once, shards, known, options.epochs, results)
                processes = [context.Process(target=train, args=(rank, *arguments)) for rank in range(world)]
                for process in processes:
                    process.start()
                found = [results.get() for _ in processes]
                for process in processes:
                    process.join()
                rows, reading, cut, steps = (np.mean([row[i] for row in found]) for i in range(4))
                digests = ", ".join(sorted({row[4] for row in found}))
                ways = "once, each by one worker" if once else "in each epoch, by all workers"
                print(
                    f"| {world} | {ways} | {rows:,.0f} | {reading:.2f} | {cut:.2f} | {steps:.2f} | {cut / steps:.2f} "
                    f"| loss {found[0][5]:.6f}, {digests} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
