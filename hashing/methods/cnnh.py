"""CNNH and CNNH+: convolutional neural network hashing in two stages."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..deep.contract import Outputs, Tensor
from ..deep.losses import cross_entropy
from ..deep.method import Deep, linear_layer
from ..mapreduce import Array, Batch, Data
from ..statistics import label_sets
from . import register


@register
@dataclass(frozen=True)
class CNNH(Deep):
    """Convolutional neural network hashing: codes that factor the similarity matrix, then a network that learns them.

    Stage 1 minimises |S - HH' / n_bits|^2 over H in [-1, 1], with s_ij = 1 where rows share a label and -1 elsewhere.
    Stage 2 minimises the mean of |tanh(u) - sgn(h)|^2; CNNH+ (classification > 0) adds the cross-entropy of the
    classes.

    Rows with the same labels have the same row of S, and here also the same h. So the matrix to factor has one row per
    distinct label set, weighted by its number of rows, and its size does not depend on n. H is updated entry by entry
    with clipped Newton steps; a step that does not lower the objective is undone.

    Reference: Xia, Pan, Lai, Liu & Yan, Supervised hashing for image retrieval via image representation learning, AAAI
    2014.
    """

    classification: float = 0.0
    passes: int = 30

    def prepare(self, data: Data) -> tuple[Array, Array]:
        labels, counts = label_sets(data)
        s = np.where(labels.astype(float) @ labels.T > 0, 1.0, -1.0)
        return labels, np.sign(factored(s, counts / counts.sum(), self.n_bits, self.passes, self.seed) + 1e-12)

    def head(self, dim: int, n_classes: int) -> Tensor:
        return linear_layer(self.n_bits, n_classes)

    def targets(self, batch: Batch, prepared: tuple[Array, Array]) -> Array:
        labels, codes = (part.astype(np.float32) for part in prepared)
        y: Any = batch.y  # a supervised method has labels
        same = (y @ labels.T - (labels.sum(1) + y.sum(1, keepdims=True)) / 2).argmax(1)  # 0 where sets agree
        own: Array = codes[same]
        return own

    def loss(self, out: Outputs) -> Tensor:
        z = out.u.tanh()
        fit = ((z - out.targets) ** 2).mean()
        return fit + self.classification * cross_entropy(out.head(z), out.y) if self.classification else fit


def factored(s: Array, weights: Array, n_bits: int, passes: int, seed: int) -> Array:
    """Return H (m, n_bits) in [-1, 1] that lowers sum_ij w_i w_j (s_ij - h_i'h_j / n_bits)^2.

    H starts from uniform random numbers.
    """
    rng = np.random.default_rng(seed)
    h = rng.uniform(-1, 1, (len(s), n_bits))
    for _ in range(passes):
        for i, k in zip(*np.unravel_index(rng.permutation(h.size), h.shape), strict=True):
            away = h @ h[i] - n_bits * s[i]
            slope = weights @ (away * h[:, k])
            curve = weights @ h[:, k] ** 2 + weights[i] * (h[i, k] ** 2 + away[i])
            before, old = objective(h, s, weights, i), h[i, k]
            step = -slope / curve if curve > 0 else -np.sign(slope) * 2
            h[i, k] = np.clip(old + step, -1, 1)
            if objective(h, s, weights, i) > before:
                h[i, k] = old
    return h


def objective(h: Array, s: Array, weights: Array, i: int) -> float:
    """Return the terms of the objective that contain h_i, divided by w_i."""
    away = (h @ h[i] - h.shape[1] * s[i]) ** 2
    return float(2 * weights @ away - weights[i] * away[i])
