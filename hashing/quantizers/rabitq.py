"""RaBitQ: rotated rows, rounded to the nearest direction of a grid."""

from dataclasses import dataclass
from typing import ClassVar

from ..mapreduce import Array
from .rotated import RotatedQuantizer


@dataclass(frozen=True, eq=False)
class RaBitQHash(RotatedQuantizer):
    """The levels k for which y = k - (2^bits - 1) / 2 has nearly the largest cosine with v; for one bit, its signs.

    Over random rotations, the estimate of <v, p> is unbiased, whatever the levels.
    """

    name: ClassVar[str] = "RaBitQ"

    def quantize_rotated(self, v: Array, centre: Array, u: Array, correctives: Array) -> None:
        from . import kernels

        kernels.round_to_direction(v, self.bits, centre, u, correctives)
