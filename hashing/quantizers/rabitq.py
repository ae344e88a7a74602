"""RaBitQ: rotated rows, rounded to the nearest direction of a grid."""

from dataclasses import dataclass
from typing import ClassVar

from ..mapreduce import Array
from .rotated import RotatedQuantizer

# Share of the squared length of a row that rounding loses, by the bits of a coordinate: 1 - 2 / pi for one bit, else
# that of the best uniform quantizer of a normal variable (Max, 1960, continued).
DISTORTIONS = {1: 0.3634, 2: 0.1188, 3: 0.0374, 4: 0.0115, 5: 0.0035, 6: 0.00104, 7: 0.0003, 8: 8.7e-5}


@dataclass(frozen=True, eq=False)
class RaBitQHash(RotatedQuantizer):
    """The levels k for which y = k - (2^bits - 1) / 2 has nearly the largest cosine with v; for one bit, its signs.

    Over random rotations, the estimate of <v, p> is unbiased, whatever the levels.
    """

    name: ClassVar[str] = "RaBitQ"

    def quantize_rotated(self, v: Array, centre: Array, u: Array, correctives: Array) -> None:
        from . import kernels

        kernels.round_to_direction(v, self.bits, centre, u, correctives)
