"""What the workers of a training run exchange. All workers must call each of these functions together."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..mapreduce import Worker


def all_outputs(u: Tensor, worker: Worker) -> Tensor:
    """Return the outputs of all workers. Own gradients are scaled by world, as `average_gradients` divides by it."""
    if worker.world == 1:
        return u
    parts = list(all_rows(u.detach().contiguous(), worker).chunk(worker.world))
    parts[worker.rank] = u.detach() + worker.world * (u - u.detach())
    return torch.cat(parts)


def all_rows(x: Tensor, worker: Worker) -> Tensor:
    """Return the rows of all workers, in the order of their ranks."""
    if worker.world == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(worker.world)]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def share_buffers(modules: nn.Module, worker: Worker) -> None:
    """Copy rank 0's batch normalization statistics to all workers, so that all compute the same score."""
    if worker.world > 1:
        for buffer in modules.buffers():
            dist.broadcast(buffer, 0)


def average_gradients(modules: nn.Module, worker: Worker) -> None:
    """Replace each gradient by its mean over the workers."""
    if worker.world == 1:
        return
    gradients = [p.grad for p in modules.parameters() if p.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    means = torch.split(flat / worker.world, [gradient.numel() for gradient in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))


def all_values(value: Any, worker: Worker) -> list[Any]:
    """Return the values of all workers, which are pickled, in the order of their ranks."""
    if worker.world == 1:
        return [value]
    values = [None] * worker.world
    dist.all_gather_object(values, value)
    return values
