"""The contract between deep methods and training: what a loss and a network are given."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..mapreduce import Array

Tensor = Any  # torch.Tensor: importing a method needs no torch
APART = 2**32  # added to the seed: rows are also drawn by the seed itself, as queries are, and those are not here


class Outputs(NamedTuple):
    """What a loss may know of one batch, of all workers together. The gradient flows through u and head."""

    u: Tensor  # (n, n_bits); of two views (n, 2 n_bits)
    y: Tensor  # (n, c) multi-hot labels
    x: Tensor  # (n, d) the rows, as they were before augmentation
    ids: Array  # (n,) int64
    progress: float  # share of the training that is done, 0 to 1
    network: Any  # nn.Module that made u
    head: Any  # nn.Module that the method asked for, or None
    prepared: Any  # what `prepare` gave


class Facts(NamedTuple):
    """What a network must know of the training rows."""

    rows: int
    mean: Array  # (d,)
    variance: Array  # (d,)
    n_classes: int
