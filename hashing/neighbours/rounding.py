"""Bounds of the rounding errors of distances that are computed in float32."""

import numpy as np

from ..hamming.layout import read_only
from ..mapreduce import Array
from ..rounding import TINY, UNIT

HUGE = 2.0**120  # squared norm above which float32 may overflow


def norm_bounds(norms: Array, dim: int, with_norms: bool = True) -> tuple[Array, Array]:
    """Return (n,) float32 lower and upper bounds of |x|^2 that cover the rounding errors of |q|^2 - 2qx + |x|^2.

    The norms |x|^2 (n,) are float32, of vectors of dimension dim. Without norms, the bounds are those of 0 and cover
    the rounding errors of -2qx. The errors are divided between q and x, so the sum of their bounds bounds the distance,
    for any order of summation (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). There are d
    roundings in the product, d in a norm, 4 in the differences from the centre or 8 in unit vectors, and 16 in the sums
    and the limit. If the comparison is close, no term of these sums exceeds 5 times the norms. If float32 may overflow,
    the bounds are infinite.
    """
    margin = (3 * dim + 24) * UNIT * (norms + TINY)
    centre = norms if with_norms else np.zeros_like(norms)
    bounds = np.where(norms < HUGE, [centre - margin, centre + margin], [[-np.inf], [np.inf]])
    low, high = (read_only(bound) for bound in bounds.astype(np.float32))
    return low, high
