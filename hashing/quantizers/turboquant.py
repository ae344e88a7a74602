"""TurboQuant: rotated rows, each coordinate rounded as a normal variable."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..mapreduce import Array
from .rotated import RotatedQuantizer

UNIT = 2**10  # codebooks are integers, so that sums of their products with rounded queries are exact
POSITIVE = {  # the positive values of the Lloyd-Max quantizer of a standard normal variable, by bits
    1: [0.7979],
    2: [0.4528, 1.5104],
    3: [0.2451, 0.7560, 1.3439, 2.1520],
    4: [0.1284, 0.3881, 0.6568, 0.9424, 1.2562, 1.6181, 2.0690, 2.7326],
}


def _codebook(positive: list[float]) -> Array:
    values: Array = np.rint(UNIT * np.array([-value for value in positive[::-1]] + positive))
    return values


@dataclass(frozen=True, eq=False)
class TurboQuantHash(RotatedQuantizer):
    """The levels whose values, for a standard normal variable, are nearest to the coordinates of v sqrt(d) / |v|."""

    name: ClassVar[str] = "TurboQuant"
    codebooks: ClassVar[dict[int, Array]] = {bits: _codebook(values) for bits, values in POSITIVE.items()}

    def quantize_rotated(self, v: Array, centre: Array, u: Array, correctives: Array) -> None:
        from . import kernels

        kernels.round_to_codebook(v, self.bits, centre, self.codebooks[self.bits], UNIT, u, correctives)
