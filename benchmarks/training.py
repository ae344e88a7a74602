"""The training loop beside a bare torch loop of the same network, on the same rows, in one process.

    python benchmarks/training.py [--device cpu] [--epochs 12]

The bare loop has all rows in one tensor on the device, and knows neither shards nor checkpoints nor workers. After each
epoch of ours it takes the same number of steps with the same network, loss, optimizer and batch size. A ratio is the
median over the epochs of bare seconds / our seconds, without the first epoch, which also reads the shards.
"""

import argparse
import math
import os
import statistics
import time
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from hashing.deep import networks, sgd
from hashing.deep.contract import Outputs
from hashing.deep.method import facts
from hashing.mapreduce import Batch, Data
from hashing.methods.dpsh import DPSH
from infra.executors import InProcess

CLASSES = 10
CASES = {  # name: network, dimensions, rows, batch size
    "mlp, 512-d, batch 128": ("mlp", 512, 20_480, 128),
    "mlp, 512-d, batch 512": ("mlp", 512, 40_960, 512),
    "cnn, 28 x 28 pixels, batch 128": ("cnn", 784, 5_120, 128),
}


@dataclass
class Interleaved:
    """A worker that runs an epoch of the bare loop after each epoch of ours, and times both."""

    bare_epoch: object  # called without arguments
    device: str
    threads: int
    clock: object = time.perf_counter
    ours: list = field(default_factory=list)
    bare: list = field(default_factory=list)
    rank, world = 0, 1

    def latest(self):
        return None

    def report(self, epochs, most, state):
        self.ours.append(self.clock() - self.start)
        start = self.clock()
        self.bare_epoch()
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.bare.append(self.clock() - start)
        self.start = self.clock()


def bare_loop(method, rows, known, device):
    """Return a function that trains for one epoch with nothing but torch."""
    network = networks.build(method.network, rows.x.shape[1], method.n_bits)
    network.scale(torch.tensor(known.mean), torch.tensor(known.variance))
    network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), method.lr, momentum=0.9)
    x, y = torch.tensor(rows.x).to(device), torch.tensor(rows.y, dtype=torch.float32).to(device)

    def epoch():
        order = torch.randperm(len(x), device=device)
        for chosen in order.split(method.batch_size):
            batch = x[chosen]
            with torch.autocast(device, torch.bfloat16, enabled=getattr(method, "precision", "") == "bf16"):
                u = network(batch)
            loss = method.loss(Outputs(u.float(), y[chosen], batch, None, 0.0, network, None, None))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def compare(network, dim, n, batch_size, device="cpu", epochs=12, threads=None, **settings):
    """Return the rows per second of our loop and of the bare loop, and the median of their ratio by epoch."""
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=n)
    x = (rng.normal(size=(CLASSES, dim))[labels] + rng.normal(size=(n, dim))).astype(np.float32)
    rows = Batch(np.arange(n), x, np.eye(CLASSES, dtype=np.uint8)[labels])
    method = replace(
        DPSH(n_bits=64, network=network, batch_size=batch_size, epochs=epochs, patience=epochs, validation=0.0),
        **settings,
    )
    data = Data([[rows.take(slice(i, i + 4096)) for i in range(0, n, 4096)]], InProcess())
    known = facts(data, method)
    worker = Interleaved(bare_loop(method, rows, known, device), device, threads or len(os.sched_getaffinity(0)))
    worker.start = worker.clock()
    sgd.train(worker, method, data.shards, known, None, None, {})
    ours, bare = worker.ours[1:], worker.bare[1:]
    assert math.isclose(len(ours), epochs - 1)
    return {
        "rows_per_second": n / statistics.median(ours),
        "bare_rows_per_second": n / statistics.median(bare),
        "ratio": statistics.median(b / a for a, b in zip(ours, bare, strict=True)),
        "first_epoch_seconds": worker.ours[0],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    print("| network | rows/s | bare loop, rows/s | ratio |\n|---|---|---|---|")
    for name, case in CASES.items():
        found = compare(*case, device=options.device, epochs=options.epochs)
        ours, bare = found["rows_per_second"], found["bare_rows_per_second"]
        print(f"| {name} | {ours:,.0f} | {bare:,.0f} | {found['ratio']:.2f} |")


if __name__ == "__main__":
    main()
