"""Nearest neighbours over shards, as mergeable statistics (hashing.mapreduce): the same bits for any cut into shards.

- `exact`: the k nearest vectors, the ground truth of unsupervised retrieval.
- `candidates`: the rows nearest by Hamming or asymmetric distance, or within a Hamming radius.
- `multi_index`, `multi_index_kernels`: the same rows by Hamming distance, from an index, for queries with near rows.
- `reranking`: exact distances of such candidates.
- `id_lookup`: finds the rows of a batch by their ids. `exact_kernels`, `merge_kernels`: loops compiled by Numba.
- `exact_tensors`: the loops of `exact` on a torch device. `rounding`: bounds of their rounding errors.
"""
