"""The inner loop of hashing.methods.bre, compiled by Numba on first use and cached on disk."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True, fastmath={"reassoc"})  # sums are of integers, so exact in any order
def sweep(at, order, sign, starts, partners, gain):
    """Return the best shift over all real shifts, the first of equally good ones, and its decrease of the cost.

    Parameters
    ----------
    at : (n,) float64
        Shift at which the bit of each row flips; infinite if it never does.
    order : (n,) int64
        Order that sorts `at`.
    sign : (n,) float32
        Bits at shift -infinity, -1 or +1; overwritten.
    starts, partners : (n + 1,) and (pairs,) int64
        Row i is paired with the rows partners[starts[i] : starts[i + 1]]; each pair appears twice.
    gain : (pairs,) float32
        Increase of the cost if the bit differs between the rows of a pair.
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
