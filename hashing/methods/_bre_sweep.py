"""The coordinate descent of hashing.methods.bre, compiled by Numba on first use and cached on disk."""

import numpy as np
from numba import njit

ROWS = 2048  # per block of pairs; what they need stays in the CPU cache
BUCKETS = 2048  # of shifts of either sign
NEVER = 2 * BUCKETS + 1  # bucket of the rows whose bit never flips


@njit(nogil=True, cache=True)
def descend(u, weight, columns, offsets, gain):
    """Set each weight of a bit to its best value in turn, in place, and return the decrease of the cost.

    Parameters
    ----------
    u : (n,) float64
        weight @ columns; the bit is u >= 0.
    weight : (m,) float64
    columns : (m, n) float32
    offsets : (p,) int64
        Row i is paired with row (i + offset) % n.
    gain : (p, n) int16
        Increase of the cost if the bit differs between the rows of a pair, by offset and row i.
    """
    n = len(u)
    at, sign = np.empty(2 * n, np.float32), np.empty(2 * n, np.float32)  # twice, so that row i + offset is in range
    bucket, change = np.empty(n, np.uint32), np.empty(n, np.int32)
    decrease = 0
    for q in range(len(columns)):
        _flips(u, columns[q], at, sign, bucket)
        _changes(at, sign, offsets, gain, change)
        shift, gained = _best_shift(at[:n], change, bucket)
        if gained > 0:
            _move(u, columns[q], shift)
            weight[q] += shift
            decrease += gained
    return decrease


@njit(nogil=True, cache=True)
def _move(u, column, shift):
    for i in range(len(u)):
        u[i] += shift * column[i]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def _flips(u, column, at, sign, bucket):
    """Write the shift at which the bit of each row flips, or infinity; the bit at shift -infinity; and the bucket.

    A bucket is an interval of shifts. It increases with the shift in floating-point arithmetic too, and the buckets
    have about equally many rows, as ratios are distributed with heavy tails.
    """
    n, height, width = len(u), 0.0, 0.0
    for i in range(n):
        height += abs(u[i])
        width += abs(column[i])
    scale = np.float32(height / width) if height > 0 and width > 0 else np.float32(1)
    one, k = np.float32(1), np.float32(BUCKETS)
    for i in range(n):
        turns = abs(column[i]) > np.float32(1e-12)
        shift = np.float32(-u[i] / column[i]) if turns else np.float32(np.inf)
        place = np.int32(k - k * (scale / (scale + abs(shift))))
        at[i] = shift
        sign[i] = one if (column[i] < 0 if turns else u[i] >= 0) else -one
        bucket[i] = (BUCKETS + place if shift >= 0 else BUCKETS - place) if turns else NEVER
    at[n:] = at[:n]
    sign[n:] = sign[:n]


@njit(nogil=True, cache=True)
def _changes(at, sign, offsets, gain, change):
    """Write the change of the cost at the shift where the bit of each row flips.

    It is the sum over the pairs of the row; where the two rows of a pair flip at once, one of them is counted first.
    """
    n = len(change)
    first, second = np.zeros(n, np.float32), np.zeros(2 * n, np.float32)
    for start in range(0, n, ROWS):
        mine = slice(start, min(start + ROWS, n))
        for k in range(len(offsets)):
            other = slice(mine.start + offsets[k], mine.stop + offsets[k])
            _add_pairs(at[mine], at[other], sign[mine], sign[other], gain[k, mine], first[mine], second[other])
    for i in range(n):
        change[i] = np.int32(sign[i] * (first[i] + second[i] + second[n + i]))


@njit(nogil=True, cache=True)
def _add_pairs(at, at_other, sign, sign_other, gain, first, second):  # a function of its own so that LLVM vectorizes
    for i in range(len(at)):
        g = np.float32(gain[i])
        g = g if at_other[i] > at[i] else -g
        first[i] += g * sign_other[i]  # of integers, so exact in any order
        second[i] -= g * sign[i]


@njit(nogil=True, cache=True)
def _best_shift(at, change, bucket):
    """Return the best of all real shifts, the first of equally good ones, and its decrease of the cost.

    Only the buckets that may contain it are sorted: those whose decreases alone would reach the lowest cost found at
    the end of any bucket.
    """
    before, down = np.zeros(NEVER + 1, np.int64), np.zeros(NEVER + 1, np.int64)
    for i in range(len(at)):
        before[bucket[i]] += change[i]
        down[bucket[i]] += min(change[i], 0)
    cost = bound = 0
    for b in range(NEVER):
        before[b], cost = cost, cost + before[b]  # the cost at the start of the bucket
        bound = min(bound, cost)
    sought = down < 0
    for b in range(NEVER + 1):
        sought[b] &= b != NEVER and before[b] + down[b] <= bound
    rows = np.array([i for i in range(len(at)) if sought[bucket[i]]], np.int64)
    rows = rows[np.argsort(at[rows])]
    best, last, least, here = 0, np.float32(-np.inf), np.float32(np.inf), 0
    for t in range(len(rows)):
        i = rows[t]
        if t == 0 or bucket[i] != bucket[rows[t - 1]]:
            cost = before[bucket[i]]
        cost += change[i]
        if cost < best and (t + 1 == len(rows) or at[rows[t + 1]] > at[i]):
            best, last = cost, at[i]
    for i in range(len(at)):
        least = min(least, at[i] if at[i] > last else np.float32(np.inf))
        here += change[i] if at[i] <= 0 else 0
    if last == -np.inf:
        return least - 1.0, here
    return (np.float64(last) + least) / 2 if least < np.inf else last + 1.0, here - best
