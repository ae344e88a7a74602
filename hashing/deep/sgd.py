"""Synchronous SGD: 1 worker and N workers take the same steps.

All workers read the same batches, in an order keyed by the seed. Each worker runs the network on its slice of a batch.
The outputs are gathered, so the loss sees every pair of the batch, and the gradients are averaged. All randomness is
keyed by seed and step, so an interrupted run resumes exactly.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..bits import pack
from ..evaluation import histograms
from ..evaluation.metrics import average_precision
from ..hamming.layout import pack_labels
from ..mapreduce import Array, Batch, Epoch, Shard, Worker
from ..statistics import keyed_hash
from . import networks
from .contract import APART, Facts, Outputs, Trainable

WINDOW = 2**28  # bytes of rows shuffled together
CHECKPOINT_STEPS = 500


def train(
    worker: Worker,
    method: Trainable,
    shards: Sequence[Shard],
    facts: Facts,
    prepared: Any,
    held_out: Batch | None,
    pretrained: Mapping[str, Array],
) -> None:
    """Train on one worker. The last state that it reports is the input of `outcome`.

    Raises ValueError if the workers do not divide a batch, a loss is not finite, or epochs or patience is 0.
    """
    if method.batch_size % worker.world:
        raise ValueError(
            f"expected a number of workers that divides batch_size={method.batch_size}, found {worker.world}"
        )
    with _repeatable(worker):
        run = Run(worker, method, facts, prepared, pretrained)
        if state := worker.latest():
            run.restore(state)
        while run.epoch < method.epochs and run.stale < method.patience:
            for step, batch in enumerate(batches(shards, method, run.epoch)):
                if step < run.step:  # finished before the restart
                    continue
                run.take_step(batch)
                if run.step % CHECKPOINT_STEPS == 0:
                    worker.report(run.history, method.epochs, run.state())
            run.end_epoch(held_out)
            worker.report(run.history, method.epochs, run.state())
    if not run.history:
        raise ValueError(f"expected epochs and patience of at least 1, found {method.epochs} and {method.patience}")


@contextmanager
def _repeatable(worker: Worker) -> Iterator[None]:
    """Make training on a CPU bitwise reproducible, for a given number of threads.

    Restores the caller's number of threads, modes and random state at the end.
    """
    deterministic: Any = torch.utils.deterministic  # typed as a module without its property
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode(), deterministic.fill_uninitialized_memory
    devices = [] if worker.device == "cpu" else [torch.cuda.current_device()]
    with torch.random.fork_rng(devices):
        try:
            torch.set_num_threads(worker.threads)
            # By default, threads add the gradients of indexed values, such as triplets, in any order.
            torch.set_deterministic_debug_mode("error" if worker.device == "cpu" else "default")
            deterministic.fill_uninitialized_memory = False  # slow, and training never reads such memory
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_deterministic_debug_mode(before[1])
            deterministic.fill_uninitialized_memory = before[2]


def _seed(worker: Worker, seed: int) -> None:
    """Seed the CPU and this worker's GPU only; torch.manual_seed would seed every GPU."""
    torch.default_generator.manual_seed(seed)
    if worker.device != "cpu":
        torch.cuda.manual_seed(seed)


class Run:
    """State of a training run on one worker, between two steps."""

    def __init__(
        self, worker: Worker, method: Trainable, facts: Facts, prepared: Any, pretrained: Mapping[str, Array]
    ) -> None:
        self.worker, self.method, self.prepared = worker, method, prepared
        _seed(worker, method.seed)
        self.network = networks.build(
            method.network, len(facts.mean), method.n_bits, method.views, method.split, method.hash_layer
        )
        self.network.scale(torch.tensor(facts.mean), torch.tensor(facts.variance))
        if pretrained:
            networks.load_pretrained(self.network.body, pretrained)
        self.head = method.head(len(facts.mean), facts.n_classes)
        self.modules = nn.ModuleList([self.network, *([self.head] if self.head else [])]).to(worker.device)
        self.optimizer = _optimizer(method, self.network, self.head)
        self.steps = method.epochs * max(1, facts.rows // method.batch_size)
        self.epoch = self.step = self.taken = self.stale = self.rows = 0
        self.sum_loss = 0.0
        self.began = time.monotonic()  # start of the epoch; a restart continues the clock
        self.history: tuple[Epoch, ...] = ()
        self.best = self.network.state_dict()

    def take_step(self, batch: Batch) -> float:
        """Take one step on a batch of all workers, and return the loss."""
        worker, progress = self.worker, min(1.0, self.taken / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * 0.5 * (1 + math.cos(math.pi * progress))
        self.modules.train()
        size = len(batch.ids) // worker.world
        if not size:
            raise ValueError(
                f"expected at least {worker.world} training rows, one for each worker, found {len(batch.ids)}"
            )
        batch = batch.take(slice(0, size * worker.world))
        x = torch.tensor(np.asarray(batch.x, np.float32)).to(worker.device)
        y = torch.zeros(len(x), 1) if batch.y is None else torch.tensor(np.asarray(batch.y, np.float32))
        self._seed(1 + worker.rank)
        mine = x[worker.rank * size : (worker.rank + 1) * size]
        mine = self.network.augmented(mine) if self.method.augment else mine
        with torch.autocast(worker.device, torch.bfloat16, enabled=worker.device != "cpu"):
            u = self.network(mine)
        u = _gathered(u.float(), worker)
        self._seed(0)  # the loss is of the whole batch: all workers need the same random numbers
        out = Outputs(u, y.to(worker.device), x, batch.ids, progress, self.network, self.head, self.prepared)
        loss = self.method.objective(out)
        self.optimizer.zero_grad()
        loss.backward()
        _average_gradients(self.modules, worker)
        self.optimizer.step()
        self.step, self.taken, self.rows = self.step + 1, self.taken + 1, self.rows + len(batch.ids)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(f"expected a finite loss, found {value} in step {self.taken}: use a smaller lr")
        self.sum_loss += value
        return value

    def _seed(self, stream: int) -> None:
        """Seed a stream of random numbers for this step."""
        _seed(self.worker, int(keyed_hash(np.array([self.taken]), stream * APART + self.method.seed)[0] >> 1))

    def end_epoch(self, held_out: Batch | None) -> None:
        """Score the held-out rows, store the best network, and advance to the next epoch."""
        _share_buffers(self.modules, self.worker)
        score = _score(self.network, held_out, self.method, self.worker.device)
        before = [past["score"] for past in self.history if past["score"] is not None]
        if score is None or score > max(before, default=-math.inf):
            self.best, self.stale = {k: v.clone() for k, v in self.network.state_dict().items()}, 0
        else:
            self.stale += 1
        now = time.monotonic()
        ended: Epoch = {
            "epoch": self.epoch + 1,
            "loss": self.sum_loss / max(1, self.step),
            "score": score,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": now - self.began,
            "rows": self.rows,
        }
        self.history = (*self.history, ended)
        self.epoch, self.step, self.rows, self.sum_loss, self.began = self.epoch + 1, 0, 0, 0.0, now

    def state(self) -> bytes:
        """Return the checkpoint that `restore` reads."""
        file = io.BytesIO()
        names = ("epoch", "step", "taken", "stale", "rows", "sum_loss", "history", "best")
        content = {name: getattr(self, name) for name in names}
        content |= {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}
        content["seconds"] = time.monotonic() - self.began
        torch.save(content, file)
        return file.getvalue()

    def restore(self, state: bytes) -> None:
        """Resume from a checkpoint."""
        content = _load(state, self.worker.device)
        self.modules.load_state_dict(content.pop("modules"))
        self.optimizer.load_state_dict(content.pop("optimizer"))
        self.began = time.monotonic() - content.pop("seconds")
        for name, value in content.items():
            setattr(self, name, value)


def outcome(state: bytes) -> tuple[tuple[Array, ...], tuple[Epoch, ...]]:
    """Return the parameters and buffers of the best network, in the order of its state, and the finished epochs."""
    content = _load(state, "cpu")
    parameters = tuple(value.float().cpu().numpy() for value in content["best"].values() if value.dim())
    return parameters, content["history"]


def batches(shards: Sequence[Shard], method: Trainable, epoch: int) -> Iterator[Batch]:
    """Yield the batches of an epoch: shards in keyed order, and rows in keyed order within windows of WINDOW bytes.

    Rows that fit into one window give the same batches for any division into shards. The last incomplete batch is
    skipped, unless it holds all rows.
    """
    seed = int(keyed_hash(np.array([epoch]), method.seed)[0])
    window: list[Batch] = []
    seen = 0
    for place in np.argsort(keyed_hash(np.arange(len(shards)), seed), kind="stable"):
        for batch in shards[place]:
            trained = ~method.held_out(batch.ids)
            if trained.any():
                window.append(batch.take(trained))
                seen += len(window[-1].ids)
            if sum(part.x.nbytes for part in window) >= WINDOW:
                window = [(yield from _shuffled(window, seed, method.batch_size))]
    if seen:
        rest = yield from _shuffled(window, seed, method.batch_size)
        if len(rest.ids) == seen:
            yield rest


def _shuffled(window: list[Batch], seed: int, size: int) -> Generator[Batch, None, Batch]:
    """Yield whole batches in keyed order, and return the remaining rows. Empties the list, to hold its rows once."""
    labels = [part.y for part in window if part.y is not None]
    y = np.concatenate(labels) if len(labels) == len(window) else None
    rows = Batch(np.concatenate([part.ids for part in window]), np.concatenate([part.x for part in window]), y)
    window.clear()
    order = np.argsort(keyed_hash(rows.ids, seed), kind="stable")
    whole = len(order) // size * size
    for start in range(0, whole, size):
        yield rows.take(order[start : start + size])
    return rows.take(order[whole:])


def _score(
    network: networks.HashNetwork | networks.TwoViews, held_out: Batch | None, method: Trainable, device: str
) -> float | None:
    """Return the mean average precision of the held-out rows, each a query among the others."""
    if held_out is None or held_out.y is None:
        return None
    network.eval()
    with torch.inference_mode():
        blocks = torch.split(torch.tensor(np.asarray(held_out.x, np.float32)), 256)
        u = torch.cat([network.codes(block.to(device)).float().cpu() for block in blocks])
    codes = pack(u.numpy() >= 0)
    statistic = histograms.HammingHistogram(codes, method.n_bits, pack_labels(held_out.y), held_out.ids)
    state = statistic.update(statistic.zero(), held_out._replace(x=codes))
    return float(average_precision(statistic.finish(state)).mean())


def _optimizer(method: Trainable, network: nn.Module, head: nn.Module | None) -> torch.optim.Optimizer:
    fast = [p for name, p in network.named_parameters() if "hash" in name.split(".")]
    slow = [p for name, p in network.named_parameters() if "hash" not in name.split(".")]
    slow += list(head.parameters()) if head else []
    groups = [{"params": p, "base_lr": lr} for p, lr in ((slow, method.lr), (fast, method.lr * method.hash_rate)) if p]
    if method.optimizer == "adam":
        return torch.optim.Adam(groups, method.lr, weight_decay=method.weight_decay)
    return torch.optim.SGD(groups, method.lr, momentum=0.9, weight_decay=method.weight_decay)


def _gathered(u: Tensor, worker: Worker) -> Tensor:
    """Return the outputs of all workers. Own gradients are scaled by world, as `_average_gradients` divides by it."""
    if worker.world == 1:
        return u
    parts = [torch.empty_like(u) for _ in range(worker.world)]
    dist.all_gather(parts, u.detach().contiguous())
    parts[worker.rank] = u.detach() + worker.world * (u - u.detach())
    return torch.cat(parts)


def _share_buffers(modules: nn.Module, worker: Worker) -> None:
    """Copy rank 0's batch normalization statistics to all workers, so that all compute the same score."""
    if worker.world > 1:
        for buffer in modules.buffers():
            dist.broadcast(buffer, 0)


def _average_gradients(modules: nn.Module, worker: Worker) -> None:
    """Replace each gradient by its mean over the workers."""
    if worker.world == 1:
        return
    gradients = [p.grad for p in modules.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    means = torch.split(flat / worker.world, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def _load(state: bytes, device: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(io.BytesIO(state), map_location=device, weights_only=True)
    return content
