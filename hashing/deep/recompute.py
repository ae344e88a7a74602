"""Activation checkpointing: training a network with fewer activations in memory."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from math import isqrt

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def recomputed(body: nn.Module, x: Tensor) -> Tensor:
    """Return body(x) with the same values and gradients, storing about sqrt(n) of the activations of n layers.

    The layers of a Sequential are split into runs of sqrt(n) layers. Only the input of each run is stored for the
    backward pass, which recomputes the other activations with the same dropout. Any other body is a single run.

    Source: Chen, Xu, Zhang & Guestrin, Training deep nets with sublinear memory cost, arXiv 1604.06174, 2016.
    """
    layers = list(body) if isinstance(body, nn.Sequential) else [body]
    size = isqrt(len(layers)) or 1
    for start in range(0, len(layers), size):
        run = nn.Sequential(*layers[start : start + size])
        x = checkpoint(run, x, use_reentrant=False, context_fn=partial(_contexts, run))
    return x


def _contexts(run: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the forward pass through a run, and of its recomputation."""
    return nullcontext(), _frozen(run)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Do not update the running statistics of batch normalization, which the forward pass has updated."""
    norms = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in norms]
    for layer in norms:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, batches) in zip(norms, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, batches
