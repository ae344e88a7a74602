"""Exact evaluation of Hamming retrieval: statistics over shards, and metrics as closed forms of integer histograms.

- `histograms`: all rows and relevant rows by Hamming distance from each query.
- `metrics`: every metric of such a histogram, as an expectation over the orders of tied rows; `tie_groups` and
  `rank_sums`: the sums they share.
- `by_score`: histograms and nearest rows of rankings by a real-valued score.
- `by_id`: histograms of the ranking by (distance, id), to compare with code that sorts.
- `intervals`: bootstrap intervals of means over queries.
- `health`: how evenly the codes use their bits. `query_overlap`: leaks of queries into a split.

The definitions are in docs/evaluation.md.
"""
