"""The inner loop of hashing.methods.bre, compiled by Numba on first use and kept in its cache."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, fastmath={"reassoc"})  # of whole numbers, so that sums are exact in any order
def sweep(at, order, sign, starts, partners, gain):
    """(shift s, how much lower the cost is there than at 0) of the best s, all shifts considered.

    Row i of the n turns over at s = at[i], or never where that is infinite; order (n,) sorts these, sign (n,) float32
    begins as the bits at s = -infinity, -1 or +1, and is used up. Row i is in pairs with others, the rows
    partners[starts[i] : starts[i + 1]], so that each pair stands there twice; gain float32 is what it costs more where
    its rows come apart. Of equal shifts the first is taken.
    """
    cost = here = best = 0
    shift, n = at[order[0]] - 1, len(at)
    for t in range(n):
        i = order[t]
        if at[i] == np.inf:
            break
        together = np.float32(0)
        for j in range(starts[i], starts[i + 1]):
            together += gain[j] * sign[partners[j]]
        cost += int(sign[i] * together)
        sign[i] = -sign[i]
        if at[i] <= 0:
            here = cost
        following = at[order[t + 1]] if t + 1 < n else np.inf
        if cost < best and following > at[i]:
            best = cost
            shift = (at[i] + following) / 2 if following < np.inf else at[i] + 1
    return shift, here - best
