"""Hamming distances between packed codes, computed exactly by visiting every pair of a query and a row.

- `scan`: the functions to call: histograms, counts and rows within a radius, nearest rows. They take numpy arrays, or
  torch tensors on any device, and return the same integers for both.
- `layout`: packs labels into words, and arranges codes in memory for the kernels.
- `kernels`, `simd`: the loops of `scan`, compiled by Numba.
- `cuda`, `triton_kernels`: the functions of `scan` on CUDA tensors, and their loops in Triton.
- `tensors`: the functions of `scan` on other torch tensors, and on all of them where Triton is not installed.
- `checks`: the argument checks they share.
"""
