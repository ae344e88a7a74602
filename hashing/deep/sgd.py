"""Synchronous SGD: one worker and N workers take the same steps.

All workers take the same batches, in an order keyed by the seed. Each worker runs the network on its slice of a batch.
The outputs are gathered, so the loss sees every pair of the batch, and the gradients are averaged. All randomness is
keyed by seed and step, so an interrupted run resumes exactly.
"""

import io
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..ahead import ahead
from ..bits import pack
from ..evaluation import histograms
from ..evaluation.metrics import average_precision
from ..hamming.layout import pack_labels
from ..mapreduce import Array, Batch, Epoch, Shard, Worker
from ..statistics import keyed_hash
from . import networks
from .batches import AHEAD, Placed, batches, current_device, on_device, shard_order
from .collectives import all_outputs, all_rows, average_gradients, share_buffers
from .contract import APART, Facts, Outputs, Trainable
from .stored import stored

CHECKPOINT_STEPS = 500
SEEDS = 256  # steps whose seeds are computed at once
COPIES = 2**20  # stream of random numbers of the copies of rows; each worker has its own streams below
CHECK_STEPS = 50  # steps between two checks of the loss, which wait for the device


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
        run = Run(worker, method, facts, pretrained)
        if state := worker.latest():
            run.restore(state)
        order = shard_order(len(shards), method, run.epoch)
        with stored(shards, order, method.held_out, facts, worker) as source:
            place = partial(on_device, worker=worker, device=current_device(worker), rows=source, dtype=facts.dtype,
                            targets=partial(method.targets, prepared=prepared))  # fmt: skip
            while run.epoch < method.epochs and run.stale < method.patience:
                left = islice(batches(source, method, run.epoch), run.step, None)  # skips those before a restart
                with closing(ahead(map(place, left), AHEAD)) as prepared_rows:
                    for rows in prepared_rows:
                        run.take_step(rows)
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
    tf32 = torch.backends.cudnn.allow_tf32
    devices = [] if worker.device == "cpu" else [torch.cuda.current_device()]
    with torch.random.fork_rng(devices):
        try:
            torch.set_num_threads(worker.threads)
            # By default, threads add the gradients of indexed values, such as triplets, in any order.
            torch.set_deterministic_debug_mode("error" if worker.device == "cpu" else "default")
            torch.backends.cudnn.allow_tf32 = False  # float32 is float32; precision=bf16 asks for less
            deterministic.fill_uninitialized_memory = False  # slow, and training never reads such memory
            yield
        finally:
            torch.set_num_threads(before[0])
            torch.set_deterministic_debug_mode(before[1])
            deterministic.fill_uninitialized_memory = before[2]
            torch.backends.cudnn.allow_tf32 = tf32


def _seed(worker: Worker, seed: int) -> None:
    """Seed the CPU and this worker's GPU only; torch.manual_seed would seed every GPU."""
    torch.default_generator.manual_seed(seed)
    if worker.device != "cpu":
        torch.cuda.manual_seed(seed)


@lru_cache(maxsize=4)
def _seeds(stream: int, block: int) -> list[int]:
    """Return the seeds of SEEDS steps: computing them one at a time would cost each step 0.2 ms."""
    steps = np.arange(block * SEEDS, (block + 1) * SEEDS)
    seeds: list[int] = (keyed_hash(steps, stream) >> np.uint64(1)).tolist()
    return seeds


class Run:
    """State of a training run on one worker, between two steps."""

    def __init__(self, worker: Worker, method: Trainable, facts: Facts, pretrained: Mapping[str, Array]) -> None:
        self.worker, self.method = worker, method
        _seed(worker, method.seed)
        self.network = networks.build(
            method.network, len(facts.mean), method.n_bits, method.views, method.split, method.hash_layer
        )
        self.network.scale(torch.tensor(facts.mean), torch.tensor(facts.variance))
        if pretrained:
            networks.copy_pretrained(self.network.body, pretrained)
        for part in self.network.modules():
            if isinstance(part, networks.HashNetwork):
                part.recompute = method.recompute
        self.head = method.head(len(facts.mean), facts.n_classes)
        self.modules = nn.ModuleList([self.network, *([self.head] if self.head else [])]).to(worker.device)
        self.optimizer = _optimizer(method, self.network, self.head, worker.device)
        self.steps = method.epochs * max(1, facts.rows // method.batch_size)
        self.epoch = self.step = self.taken = self.stale = self.rows = 0
        self.checked = 0  # step of the epoch up to which losses are known to be finite
        self.sum_loss = torch.zeros((), dtype=torch.float64, device=worker.device)
        self.began = time.monotonic()  # start of the epoch; a restart continues the clock
        self.history: tuple[Epoch, ...] = ()
        self.best = self.network.state_dict()

    def take_step(self, rows: Placed) -> None:
        """Take one step on a batch of all workers."""
        worker, progress = self.worker, min(1.0, self.taken / self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * 0.5 * (1 + math.cos(math.pi * progress))
        self._seed(1 + worker.rank)
        x = all_rows(rows.x, worker).float()
        if self.method.copies > 1:
            mine = self._copies(x)
        else:
            mine = x[worker.rank * len(rows.x) : (worker.rank + 1) * len(rows.x)]
            mine = self.network.augmented(mine) if self.method.augment else mine
        chunks = torch.split(mine, self.method.chunk or len(mine))
        self.optimizer.zero_grad()
        outputs = self._outputs(chunks)
        u = self.network.normed(all_outputs(outputs, worker))
        self._seed(0)  # the loss is of the whole batch: all workers need the same random numbers
        targets = None if rows.targets is None else all_rows(rows.targets, worker)
        seen = Outputs(u, rows.y, x, rows.ids, progress, self.network, self.head, targets, rows.labels)
        loss = self.method.objective(_by_copy(seen, self.method.copies))
        loss.backward()
        if len(chunks) > 1:
            self._backward(chunks, outputs)
        average_gradients(self.modules, worker)
        self.optimizer.step()
        self.sum_loss += loss.detach()
        self.step, self.taken, self.rows = self.step + 1, self.taken + 1, self.rows + len(rows.ids)
        if self.step % CHECK_STEPS == 0:
            self.check_loss()

    def _copies(self, x: Tensor) -> Tensor:
        """Return the copies of this worker's rows, those of a row in succession, each changed at random.

        They are drawn for the rows of all workers, so that they do not depend on the number of workers.
        """
        self._seed(COPIES)
        copies = self.network.perturbed(x.repeat_interleave(self.method.copies, 0))
        self._seed(1 + self.worker.rank)
        return copies.chunk(self.worker.world)[self.worker.rank]

    def _outputs(self, chunks: Sequence[Tensor]) -> Tensor:
        """Return u (n / world, n_bits) float32. Of several chunks, it has no graph: `_backward` computes it again."""
        if len(chunks) == 1:
            return self._forward(chunks[0])
        self._seed(1 + self.worker.world + self.worker.rank)
        with torch.no_grad():
            u = torch.cat([self._forward(chunk) for chunk in chunks])
        return u.requires_grad_()

    def _backward(self, chunks: Sequence[Tensor], u: Tensor) -> None:
        """Add the gradients of the network, given those of u, with the activations of one chunk at a time in memory.

        Source: Gao, Zhang, Han & Callan, Scaling deep contrastive learning batch size under memory limited setup
        (GradCache), RepL4NLP 2021.
        """
        self._seed(1 + self.worker.world + self.worker.rank)  # the same dropout as in `_outputs`
        gradients = torch.split(u.grad, len(chunks[0]))  # type: ignore[arg-type]  # set by backward
        for chunk, gradient in zip(chunks, gradients, strict=True):
            torch.autograd.backward(self._forward(chunk), gradient)

    def _forward(self, x: Tensor) -> Tensor:
        if self.method.precision == "float32":
            u: Tensor = self.network(x)
            return u
        with torch.autocast(self.worker.device, torch.bfloat16):
            u = self.network(x)
        return u.float()

    def check_loss(self) -> float:
        """Return the sum of the epoch's losses. Raises ValueError if it is not finite."""
        total = float(self.sum_loss)
        if not math.isfinite(total):
            steps = f"steps {self.checked + 1} to {self.step} of epoch {self.epoch + 1}"
            raise ValueError(f"expected a finite loss, found {total} in {steps}: use a smaller lr")
        self.checked = self.step
        return total

    def _seed(self, stream: int) -> None:
        """Seed a stream of random numbers for this step."""
        block, place = divmod(self.taken, SEEDS)
        _seed(self.worker, _seeds(stream * APART + self.method.seed, block)[place])

    def end_epoch(self, held_out: Batch | None) -> None:
        """Score the held-out rows, store the best network, and advance to the next epoch."""
        total = self.check_loss()
        share_buffers(self.modules, self.worker)
        score = _score(self.network, held_out, self.method, self.worker.device)
        before = [past["score"] for past in self.history if past["score"] is not None]
        if score is None or score > max(before, default=-math.inf):
            self.best, self.stale = {k: v.clone() for k, v in self.network.state_dict().items()}, 0
        else:
            self.stale += 1
        now = time.monotonic()
        ended: Epoch = {
            "epoch": self.epoch + 1,
            "loss": total / max(1, self.step),
            "score": score,
            "lr": self.optimizer.param_groups[0]["lr"],
            "seconds": now - self.began,
            "rows": self.rows,
        }
        self.history = (*self.history, ended)
        self.sum_loss.zero_()
        self.epoch, self.step, self.checked, self.rows, self.began = self.epoch + 1, 0, 0, 0, now

    def state(self) -> bytes:
        """Return the checkpoint that `restore` reads. Raises ValueError if a loss is not finite."""
        self.check_loss()
        file = io.BytesIO()
        names = ("epoch", "step", "checked", "taken", "stale", "rows", "sum_loss", "history", "best")
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
    best = networks.folded(content["best"])
    parameters = tuple(value.float().cpu().numpy() for value in best.values() if value.dim())
    return parameters, content["history"]


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
    network.train()
    codes = pack(u.numpy() >= 0)
    statistic = histograms.HammingHistogram(codes, method.n_bits, pack_labels(held_out.y), held_out.ids)
    state = statistic.update(statistic.zero(), held_out._replace(x=codes))
    return float(average_precision(statistic.finish(state)).mean())


def _optimizer(method: Trainable, network: nn.Module, head: nn.Module | None, device: str) -> torch.optim.Optimizer:
    by_rate: dict[float, list[nn.Parameter]] = {}  # each group costs a step about 0.1 ms
    for name, parameter in network.named_parameters():
        rate = method.lr * (method.hash_rate if "hash" in name.split(".") else 1.0)
        by_rate.setdefault(rate, []).append(parameter)
    by_rate.setdefault(method.lr, []).extend(head.parameters() if head else ())
    groups = [{"params": parameters, "base_lr": rate} for rate, parameters in by_rate.items() if parameters]
    fused = True if device == "cuda" else None  # one kernel for all parameters
    if method.optimizer == "adam":
        return torch.optim.Adam(groups, method.lr, weight_decay=method.weight_decay, fused=fused)
    return torch.optim.SGD(groups, method.lr, momentum=0.9, weight_decay=method.weight_decay, fused=fused)


def _by_copy(out: Outputs, copies: int) -> Outputs:
    """Return outputs with one copy of each row, then the next, given u with all copies of a row in succession."""
    if copies == 1:
        return out
    u = out.u.view(-1, copies, out.u.shape[1]).transpose(0, 1).flatten(0, 1)
    y, x, targets = (None if part is None else part.repeat(copies, 1) for part in (out.y, out.x, out.targets))
    ids, labels = np.tile(out.ids, copies), np.tile(out.labels, (copies, 1))
    return out._replace(u=u, y=y, x=x, ids=ids, targets=targets, labels=labels)


def _load(state: bytes, device: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(io.BytesIO(state), map_location=device, weights_only=True)
    return content
