"""The inner loop of hashing.search, compiled by Numba on first use and kept in its cache."""

from numba import njit


@njit(nogil=True, cache=True)
def merge(left_distances, left_ids, right_distances, right_ids, distances, ids):
    """distances, ids (q, k) become the first k of each row of two tables (q, k) and (q, m) sorted by (distance, id)."""
    for query in range(ids.shape[0]):
        i = j = 0
        for place in range(ids.shape[1]):
            near, other = left_distances[query, i], left_ids[query, i]
            right = j < right_ids.shape[1] and (
                right_distances[query, j] < near or (right_distances[query, j] == near and right_ids[query, j] < other)
            )
            if right:
                near, other = right_distances[query, j], right_ids[query, j]
                j += 1
            else:
                i += 1
            distances[query, place], ids[query, place] = near, other
