"""The inner loop of hashing.neighbours.candidates, compiled by Numba on first use and cached on disk."""

from numba import njit


@njit(nogil=True, cache=True)
def merge_tables(left_distances, left_ids, right_distances, right_ids, distances, ids):
    """Merge two tables (q, k) and (q, m) sorted by (distance, id), and write the first k to distances, ids (q, k)."""
    for query in range(ids.shape[0]):
        i = j = 0
        for place in range(ids.shape[1]):
            distance, id_ = left_distances[query, i], left_ids[query, i]
            right_is_next = j < right_ids.shape[1] and (
                right_distances[query, j] < distance
                or (right_distances[query, j] == distance and right_ids[query, j] < id_)
            )
            if right_is_next:
                distance, id_ = right_distances[query, j], right_ids[query, j]
                j += 1
            else:
                i += 1
            distances[query, place], ids[query, place] = distance, id_
