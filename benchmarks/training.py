"""How fast is the training loop, compared with a bare torch loop of the same network?

    python benchmarks/training.py [--device cpu] [--threads 1] [--epochs 6]

Both train on the same rows, in one process. The bare loop has all rows in one tensor on the device, and knows neither
shards nor checkpoints nor workers. After each epoch of ours it takes the same number of steps with the same network,
loss, optimizer and batch size. The first epoch, which also reads the shards, does not count. On a busy machine the
ratio of CPU times says more.
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

import measure
import numpy as np
import torch

from hashing.deep import networks, sgd
from hashing.deep.architectures import PICTURES
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
    ours: list = field(default_factory=list)
    bare: list = field(default_factory=list)
    rank, world = 0, 1

    def latest(self):
        return None

    def report(self, epochs, most, state):
        self.ours.append(clock() - self.start)
        start = clock()
        self.bare_epoch()
        if self.device != "cpu":
            torch.cuda.synchronize()
        self.bare.append(clock() - start)
        self.start = clock()


def clock():
    """Return the time and the CPU time of this process, in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def bare_loop(method, rows, known, device):
    """Return a function that trains for one epoch with nothing but torch."""
    network = networks.build(method.network, rows.x.shape[1], method.n_bits)
    network.scale(torch.tensor(known.mean), torch.tensor(known.variance))
    network.to(device).train()
    fused = True if device != "cpu" else None
    optimizer = torch.optim.SGD(network.parameters(), method.lr, momentum=0.9, fused=fused)
    autocast = partial(torch.autocast, device, torch.bfloat16) if method.precision == "bf16" else nullcontext
    x, y = torch.tensor(rows.x).to(device), torch.tensor(rows.y, dtype=torch.float32).to(device)

    def epoch():
        order = torch.randperm(len(x), device=device)
        for chosen in order.split(method.batch_size):
            batch = x[chosen]
            with autocast():
                u = network(batch)
            loss = method.loss(Outputs(u, y[chosen], batch, None, 0.0, network, None, None, None))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def compare(network, dim, n, batch_size, device="cpu", epochs=12, threads=None, **settings):
    """Return the rows per second of our loop and of the bare loop, and the medians over the epochs of their ratio.

    `cpu_ratio` is that of the CPU time of all threads, so it counts the thread that prepares batches, too.
    """
    rng = np.random.default_rng(0)
    labels = rng.integers(CLASSES, size=n)
    if network in PICTURES:
        x = rng.integers(0, 256, (n, dim), np.uint8).astype(np.float32)
    else:
        x = (rng.normal(size=(CLASSES, dim))[labels] + rng.normal(size=(n, dim))).astype(np.float32)
    rows = Batch(np.arange(n), x, np.eye(CLASSES, dtype=np.uint8)[labels])
    method = replace(
        DPSH(n_bits=64, network=network, batch_size=batch_size, epochs=epochs, patience=epochs, validation=0.0),
        **settings,
    )
    data = Data([[rows.take(slice(i, i + 4096)) for i in range(0, n, 4096)]], InProcess())
    known = facts(data, method)
    worker = Interleaved(bare_loop(method, rows, known, device), device, threads or len(os.sched_getaffinity(0)))
    worker.start = clock()
    sgd.train(worker, method, data.shards, known, None, None, {})
    ours, bare = np.array(worker.ours[1:]), np.array(worker.bare[1:])
    rates, bare_rates = n / np.median(ours, axis=0), n / np.median(bare, axis=0)
    ratio, cpu_ratio = np.median(bare / ours, axis=0)
    return {
        "rows_per_second": rates[0],
        "bare_rows_per_second": bare_rates[0],
        "ratio": ratio,
        "cpu_ratio": cpu_ratio,
        "first_epoch_seconds": worker.ours[0][0],
        "seconds": {"ours": ours[:, 0].tolist(), "peer": bare[:, 0].tolist()},
    }


def measured(options: argparse.Namespace) -> Iterator[measure.Row]:
    for name, case in CASES.items():
        found = compare(*case, options.device, options.epochs, options.threads)
        note = f"ratio of CPU times {found['cpu_ratio']:.2f}"
        yield measure.row(name, found["seconds"], "krow/s", case[2] / 1e3, note=note)


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of the CPU; default: all")
    parser.add_argument("--epochs", type=int, default=6)
    options = parser.parse_args()
    measure.run(__doc__, options, measured(options), peer="a bare torch loop", packages=("torch",))


if __name__ == "__main__":
    main()
