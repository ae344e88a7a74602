"""The inner loop of hashing.evaluation.by_score, compiled by Numba on first use and cached on disk."""

from numba import njit


@njit(nogil=True, cache=True)
def count_scores(scores, grades, levels, ends, own, counts):
    """Add rows to the bins of their queries.

    The levels of query i are levels[ends[i]:ends[i + 1]], sorted; its bins begin at 2 ends[i] + i. Bin 2 k holds the
    scores between the levels k - 1 and k, bin 2 k + 1 those of level k.

    scores (q, m) and levels (n,) are uint32, grades (q, m) uint16, and ends (q + 1,) int64. counts (2, 2 n + q) int64
    are those of all rows and of relevant rows, whose grade is not 0; if there are more, of the rows of grade 0, 1, …
    Rows with the score `own`, a query's own row, are not counted.
    """
    for query in range(scores.shape[0]):
        start, stop = ends[query], ends[query + 1]
        for row in range(scores.shape[1]):
            score = scores[query, row]
            if score == own:
                continue
            low, high = start, stop
            while low < high:
                middle = (low + high) // 2
                if levels[middle] < score:
                    low = middle + 1
                else:
                    high = middle
            place = 2 * low + query + (low < stop and levels[low] == score)
            counts[0, place] += 1
            counts[1, place] += grades[query, row] > 0
            if len(counts) > 2:
                counts[2 + grades[query, row], place] += 1
