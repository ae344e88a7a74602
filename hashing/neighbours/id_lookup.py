"""Find the rows of a batch by their ids, such as the neighbours of queries."""

import numpy as np

from ..mapreduce import Array


class IdLookup:
    """Pairs (id, value), sorted by id, in which the ids of each batch are found by binary search.

    Parameters
    ----------
    ids
        (m,) int64; an id may occur several times, with different values.
    values
        (m,) integers, such as the query whose neighbour has the id.

    Examples
    --------
    >>> IdLookup(np.array([7, 5, 7]), np.array([0, 1, 2])).find(np.array([5, 6, 7]))
    (array([1, 0, 2]), array([0, 2, 2]))
    """

    def __init__(self, ids: Array, values: Array) -> None:
        order = np.argsort(ids, kind="stable")
        self.ids, self.values = ids[order], values[order]

    def find(self, ids: Array) -> tuple[Array, Array]:
        """Return values (p,) and positions in ids (p,) int64, one pair for each match, sorted by position."""
        first = np.searchsorted(self.ids, ids, "left")
        counts = np.searchsorted(self.ids, ids, "right") - first
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.values[np.repeat(first, counts) + within], np.repeat(np.arange(len(ids)), counts)


def neighbour_lookup(neighbours: Array, own_ids: Array) -> IdLookup:
    """Return a lookup from the ids of neighbours (q, k) to the queries that have them.

    The query's own id, own_ids (q,), and the padding -1 are left out.
    """
    listed = (neighbours != own_ids[:, None]) & (neighbours != -1)
    return IdLookup(neighbours[listed], np.repeat(np.arange(len(own_ids), dtype=np.int32), listed.sum(axis=1)))
