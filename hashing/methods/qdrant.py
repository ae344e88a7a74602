"""Qdrant's binary quantization by 2 bits and by 1.5 bits a coordinate."""

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..families import ThresholdHash
from ..mapreduce import Array, Data, Sum, Vectors
from ..statistics import mean_of
from . import register


@register
@dataclass(frozen=True)
class Qdrant:
    """Qdrant's quantization to three levels: two bits [z >= -2/3] and [z >= 2/3] for each standardised coordinate z.

    With n_bits = 2 d, the Hamming distance is the sum of the absolute differences of levels. With n_bits = 1.5 d, two
    adjacent coordinates share their second bit, which is 1 if either is at least 2/3.

    Qdrant compares with > instead of >=, and gives a constant coordinate one bit, the sign of its value; here both of
    its thresholds are its mean.

    Summed over all rows: the mean, then the squared deviations from it.

    Reference: Qdrant 1.15, lib/quantization, encoded_vectors_binary.rs, 2025.
    """

    n_bits: int

    def check_dim(self, dim: int) -> None:
        if self.n_bits not in (2 * dim, dim + -(-dim // 2)):
            raise ValueError(
                f"expected n_bits = 2 d or 1.5 d, for d = {dim}, found n_bits = {self.n_bits}: ask for {2 * dim} or "
                f"{dim + -(-dim // 2)} bits"
            )

    def fit(self, data: Data) -> ThresholdHash:
        mean = mean_of(data)
        self.check_dim(len(mean))
        n, squares = data.reduce(Sum(partial(_squares, mean=mean)), "deviations")
        third = 2 / 3 * np.sqrt(squares / n)
        return ThresholdHash(np.stack([mean - third, mean + third]), len(mean), self.n_bits < 2 * len(mean))


def _squares(batch: Vectors, mean: Array) -> tuple[int, Array]:
    return len(batch.x), ((batch.x - mean) ** 2).sum(axis=0)
