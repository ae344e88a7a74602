"""Signs of the coordinates."""

from dataclasses import dataclass

import numpy as np

from ..families import ThresholdHash
from ..mapreduce import Data, Sum, Vectors
from ..statistics import mean_of
from . import register


@register
@dataclass(frozen=True)
class Sign:
    """Binary quantization: the sign of each coordinate, one bit each, so n_bits = d.

    Coordinates are centred, because in many embeddings some have a constant sign, and features after a ReLU are never
    negative. With centred=False, as vendors of embeddings quantize, nothing is learned, and `fit` raises ValueError if
    no value is negative. The same with a random rotation is super_bit with n_bits = d.

    Summed over all rows: the mean; or the number of negative values.

    Reference: sentence-transformers, Embedding quantization (quantize_embeddings, precision="ubinary"), 2024, where a
    bit is [x > 0], without centring.
    """

    n_bits: int
    centred: bool = True

    def check_dim(self, dim: int) -> None:
        if self.n_bits != dim:
            shorter = ", or use matryoshka, itq or super_bit for fewer" if self.n_bits < dim else ""
            raise ValueError(
                f"expected n_bits = d = {dim}, one bit a coordinate, found n_bits = {self.n_bits}: ask for {dim} bits"
                f"{shorter}"
            )

    def fit(self, data: Data) -> ThresholdHash:
        if self.centred:
            threshold = mean_of(data)
        else:
            (negative,) = data.reduce(Sum(_negative), "negative values")
            if not negative.any():
                raise ValueError(
                    "expected coordinates of both signs for centred=False, found none below zero: pass centred=True"
                )
            threshold = np.zeros(len(negative))
        self.check_dim(len(threshold))
        return ThresholdHash(threshold[None], self.n_bits)


def _negative(batch: Vectors) -> tuple[np.ndarray]:
    return ((batch.x < 0).sum(axis=0),)
