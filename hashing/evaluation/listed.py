"""Listed neighbours of queries, found by id."""

import numpy as np

from ..mapreduce import Array


class Listed:
    """Ids that queries have listed, sorted once so that each batch is looked up in them."""

    def __init__(self, ids: Array, queries: Array):
        order = np.argsort(ids, kind="stable")
        self.ids, self.queries = ids[order], queries[order]

    def find(self, ids: Array) -> tuple[Array, Array]:
        """Every (query, position in ids) of which the query lists that id."""
        first = np.searchsorted(self.ids, ids, "left")
        counts = np.searchsorted(self.ids, ids, "right") - first
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.queries[np.repeat(first, counts) + within], np.repeat(np.arange(len(ids)), counts)


def list_neighbours(neighbours: Array, own: Array) -> Listed:
    """The neighbours (q, k) of queries, without their own rows (q,) and without the -1 that pads."""
    real = (neighbours != own[:, None]) & (neighbours != -1)
    return Listed(neighbours[real], np.repeat(np.arange(len(own), dtype=np.int32), real.sum(axis=1)))
