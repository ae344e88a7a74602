"""Stochastic gradient descent on one batch of all workers together: 1 worker and N workers take the same steps.

Batches are cut from rows in keyed order, whoever reads them. Each worker runs the network on its slice of a batch; the
outputs of all are gathered, so that a loss sees every pair of the batch, and gradients are averaged. All randomness is
keyed by seed and step, so a run that was cut off goes on exactly as it would have.
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

WINDOW = 2**28  # bytes of rows that are shuffled together
CHECKPOINT_STEPS = 500


def train(
    worker: Worker,
    method: Trainable,
    shards: Sequence[Shard],
    known: Facts,
    prepared: Any,
    held_out: Batch | None,
    pretrained: Mapping[str, Array],
) -> None:
    """One worker's part of a training run. Its last report is the state that `outcome` reads."""
    if method.batch_size % worker.world:
        raise ValueError(f"expected workers that divide the batch of {method.batch_size}, found {worker.world}")
    with _repeatable(worker):
        run = Run(worker, method, known, prepared, pretrained)
        if state := worker.latest():
            run.restore(state)
        while run.epoch < method.epochs and run.stale < method.patience:
            for step, batch in enumerate(batches(shards, method, run.epoch)):
                if step < run.step:  # done before the restart
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
    """Inside, torch takes the same steps to the last bit each time, on a CPU with a given number of threads.

    Afterwards the caller has its threads, modes and random numbers back.
    """
    deterministic = torch.utils.deterministic
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode(), deterministic.fill_uninitialized_memory
    devices = [] if worker.device == "cpu" else [torch.cuda.current_device()]
    with torch.random.fork_rng(devices):
        try:
            torch.set_num_threads(worker.threads)
            # Else threads add the gradients of what was indexed, as triplets are, in any order.
            torch.set_deterministic_debug_mode("error" if worker.device == "cpu" else "default")
            deterministic.fill_uninitialized_memory = False  # which is never read here
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_deterministic_debug_mode(before[1])
            deterministic.fill_uninitialized_memory = before[2]


def _seed(worker: Worker, seed: int) -> None:
    """As torch.manual_seed, which would also seed GPUs that are not ours."""
    torch.default_generator.manual_seed(seed)
    if worker.device != "cpu":
        torch.cuda.manual_seed(seed)


class Run:
    """The state of a training run on one worker, between two steps."""

    def __init__(
        self, worker: Worker, method: Trainable, known: Facts, prepared: Any, pretrained: Mapping[str, Array]
    ) -> None:
        self.worker, self.method, self.prepared = worker, method, prepared
        _seed(worker, method.seed)
        self.network = networks.build(
            method.network, len(known.mean), method.n_bits, method.views, method.split, method.hash_layer
        )
        self.network.scale(torch.tensor(known.mean), torch.tensor(known.variance))
        if pretrained:
            networks.load_pretrained(self.network.body, pretrained)
        self.head = method.head(len(known.mean), known.n_classes)
        self.modules = nn.ModuleList([self.network, *([self.head] if self.head else [])]).to(worker.device)
        self.optimizer = _optimizer(method, self.network, self.head)
        self.steps = method.epochs * max(1, known.rows // method.batch_size)
        self.epoch = self.step = self.taken = self.stale = self.rows = 0
        self.sum_loss = 0.0
        self.began = time.monotonic()  # the epoch; after a restart, as if it had not been cut off
        self.history: tuple[Epoch, ...] = ()
        self.best = self.network.state_dict()

    def take_step(self, batch: Batch) -> float:
        """One step on a batch of all workers. Its loss."""
        worker, progress = self.worker, min(1.0, self.taken / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * 0.5 * (1 + math.cos(math.pi * progress))
        self.modules.train()
        size = len(batch.ids) // worker.world
        if not size:
            raise ValueError(f"expected a training row for each of {worker.world} workers, found {len(batch.ids)}")
        batch = batch.take(slice(0, size * worker.world))
        x = torch.tensor(np.asarray(batch.x, np.float32)).to(worker.device)
        y = torch.zeros(len(x), 1) if batch.y is None else torch.tensor(np.asarray(batch.y, np.float32))
        self._seed(1 + worker.rank)
        mine = x[worker.rank * size : (worker.rank + 1) * size]
        mine = self.network.augmented(mine) if self.method.augment else mine
        with torch.autocast(worker.device, torch.bfloat16, enabled=worker.device != "cpu"):
            u = self.network(mine)
        u = _gathered(u.float(), worker)
        self._seed(0)  # what the loss draws is of the whole batch: the same on all workers
        out = Outputs(u, y.to(worker.device), x, batch.ids, progress, self.network, self.head, self.prepared)
        loss = self.method.objective(out)
        self.optimizer.zero_grad()
        loss.backward()
        _average_gradients(self.modules, worker)
        self.optimizer.step()
        self.step, self.taken, self.rows = self.step + 1, self.taken + 1, self.rows + len(batch.ids)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ValueError(f"expected a finite loss, found {value} in step {self.taken}: try a smaller lr")
        self.sum_loss += value
        return value

    def _seed(self, stream: int) -> None:
        """Begin a stream of random numbers of this step."""
        _seed(self.worker, int(keyed_hash(np.array([self.taken]), stream * APART + self.method.seed)[0] >> 1))

    def end_epoch(self, held_out: Batch | None) -> None:
        """Score the rows held out, remember the best network, and turn to the next epoch."""
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
        """All that a restart needs."""
        file = io.BytesIO()
        names = ("epoch", "step", "taken", "stale", "rows", "sum_loss", "history", "best")
        content = {name: getattr(self, name) for name in names}
        content |= {"modules": self.modules.state_dict(), "optimizer": self.optimizer.state_dict()}
        content["seconds"] = time.monotonic() - self.began
        torch.save(content, file)
        return file.getvalue()

    def restore(self, state: bytes) -> None:
        content = _load(state, self.worker.device)
        self.modules.load_state_dict(content.pop("modules"))
        self.optimizer.load_state_dict(content.pop("optimizer"))
        self.began = time.monotonic() - content.pop("seconds")
        for name, value in content.items():
            setattr(self, name, value)


def outcome(state: bytes) -> tuple[tuple[Array, ...], tuple[Epoch, ...]]:
    """From a run's last report: the best network's parameters and buffers in the order of its state, and the epochs."""
    content = _load(state, "cpu")
    parameters = tuple(value.float().cpu().numpy() for value in content["best"].values() if value.dim())
    return parameters, content["history"]


def batches(shards: Sequence[Shard], method: Trainable, epoch: int) -> Iterator[Batch]:
    """The batches of an epoch: shards in keyed order, rows in keyed order within as many of them as fill a window.

    Rows that fit into one window give the same batches for any cut into shards. Those left over at the end wait for
    another epoch's order, unless they are all that there is.
    """
    seed = int(keyed_hash(np.array([epoch]), method.seed)[0])
    held: list[Batch] = []
    seen = 0
    for place in np.argsort(keyed_hash(np.arange(len(shards)), seed), kind="stable"):
        for batch in shards[place]:
            trained = ~method.held_out(batch.ids)
            if trained.any():
                held.append(batch.take(trained))
                seen += len(held[-1].ids)
            if sum(part.x.nbytes for part in held) >= WINDOW:
                held = [(yield from _shuffled(held, seed, method.batch_size))]
    if seen:
        rest = yield from _shuffled(held, seed, method.batch_size)
        if len(rest.ids) == seen:
            yield rest


def _shuffled(held: list[Batch], seed: int, size: int) -> Generator[Batch, None, Batch]:
    """The rows in keyed order, in whole batches; then those left over. The list is emptied: its rows lie here once."""
    labels = [part.y for part in held if part.y is not None]
    y = np.concatenate(labels) if len(labels) == len(held) else None
    rows = Batch(np.concatenate([part.ids for part in held]), np.concatenate([part.x for part in held]), y)
    held.clear()
    order = np.argsort(keyed_hash(rows.ids, seed), kind="stable")
    whole = len(order) // size * size
    for start in range(0, whole, size):
        yield rows.take(order[start : start + size])
    return rows.take(order[whole:])


def _score(network: nn.Module, held_out: Batch | None, method: Trainable, device: str) -> float | None:
    """Mean average precision of the held-out rows' codes among themselves."""
    if held_out is None:
        return None
    network.eval()
    with torch.inference_mode():
        blocks = torch.tensor(np.asarray(held_out.x, np.float32)).split(256)
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
    """The outputs of all workers, of which the gradient flows into our own, times their number: it is averaged then."""
    if worker.world == 1:
        return u
    parts = [torch.empty_like(u) for _ in range(worker.world)]
    dist.all_gather(parts, u.detach().contiguous())
    parts[worker.rank] = u.detach() + worker.world * (u - u.detach())
    return torch.cat(parts)


def _share_buffers(modules: nn.Module, worker: Worker) -> None:
    """Of batch normalisation: each worker has seen other rows, and all must judge an epoch alike."""
    if worker.world > 1:
        for buffer in modules.buffers():
            dist.broadcast(buffer, 0)


def _average_gradients(modules: nn.Module, worker: Worker) -> None:
    if worker.world == 1:
        return
    gradients = [p.grad for p in modules.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / worker.world).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _load(state: bytes, device: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(io.BytesIO(state), map_location=device, weights_only=True)
    return content
