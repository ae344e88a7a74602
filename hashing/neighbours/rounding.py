"""Bounds of the rounding errors of distances that are computed in float32."""

import numpy as np

from ..hamming.layout import read_only
from ..mapreduce import Array
from ..rounding import UNIT

SMALLEST, HUGE = 2.0**-126, 2.0**120  # squared norms below which float32 is denormal, and above which it may overflow


def norm_bounds(norms: Array, dim: int, with_norms: bool = True) -> tuple[Array, Array]:
    """Return (n,) float32 lower and upper bounds of |x|^2, wide enough for the rounding of |q|^2 - 2qx + |x|^2.

    The norms |x|^2 (n,) are float32, of vectors of dimension dim. Without norms, the bounds are those of 0, wide enough
    for the rounding of -2qx. Each side takes its share of the error, so the sum of the bounds of q and x bounds the
    distance, for any order of the sums (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1). The
    roundings are d in the product, d in a norm, 4 in the differences from the centre or 8 in unit vectors, and 16 in
    the sums and the limit. Where the comparison is close, no term of these sums exceeds 5 times the norms. Where
    float32 may overflow, the bounds are infinite.
    """
    margin = (3 * dim + 24) * UNIT * (norms + SMALLEST)
    centre = norms if with_norms else np.zeros_like(norms)
    bounds = np.where(norms < HUGE, [centre - margin, centre + margin], [[-np.inf], [np.inf]])
    low, high = (read_only(bound) for bound in bounds.astype(np.float32))
    return low, high
