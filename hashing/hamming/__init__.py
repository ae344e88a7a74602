"""Hamming distances between packed codes, computed exactly by visiting every pair of a query and a row.

- `scan`: the functions to call: histograms, counts and rows within a radius, nearest rows. They take numpy arrays, or
  torch tensors on any device, and return the same integers for both.
- `layout`: packs labels into words, and arranges codes in memory for the kernels.
- `kernels`, `simd`: the loops of `scan`, compiled by Numba. `tensors`: the functions of `scan` on torch tensors.
- `checks`: the argument checks they share.
"""
