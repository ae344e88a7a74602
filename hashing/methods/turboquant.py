"""TurboQuant with a correction of its estimates."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..mapreduce import Data
from ..quantizers.contract import planes_within
from ..quantizers.turboquant import TurboQuantHash
from ..solvers import random_directions
from ..statistics import moments
from . import register

MOST = 4


@register
@dataclass(frozen=True)
class TurboQuant:
    """TurboQuant: 1 to 4 bits for each coordinate of the centred and randomly rotated rows, so n_bits = d to 4 d.

    A rotated row of length one has nearly normal coordinates, and each is rounded to the nearest level of the Lloyd-Max
    quantizer of a normal variable. As in rabitq, an estimated inner product is divided by that of the row with its own
    rounding, which the paper's TurboQuant-mse does not do; with one bit, it is RaBitQ. Rows store two float16
    correctives, 4 bytes, and search ranks by the estimated distances.

    Summed over all rows: the mean, which the paper does not subtract.

    Reference: Zandieh, Daliri, Hadian & Mirrokni, TurboQuant: online vector quantization with near-optimal distortion
    rate, ICLR 2026; the division is that of Gao & Long, RaBitQ, SIGMOD 2024.
    """

    n_bits: int
    seed: int = 0
    columns: ClassVar[tuple[str, ...]] = TurboQuantHash.columns

    def check_dim(self, dim: int) -> None:
        planes_within(self, dim, MOST)

    def fit(self, data: Data) -> TurboQuantHash:
        found = moments(data, cov_above=np.inf)
        self.check_dim(d := len(found.mean))
        rotation = random_directions(d, d, np.random.default_rng(self.seed))
        return TurboQuantHash.fitted(rotation, found, self.n_bits // d, data.metric)
