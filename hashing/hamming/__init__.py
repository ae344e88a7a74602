"""Exact Hamming distances between packed codes.

- `scan`: histograms, counts, rows within a radius and nearest rows, by visiting every pair of a query and a row. The
  functions take numpy arrays, or torch tensors on any device, and return the same integers for both.
- `layout`: packs labels into words, and arranges codes in memory for the kernels.
- `kernels`, `simd`: the loops of `scan`, compiled by Numba.
- `cuda`, `triton_kernels`: the functions of `scan` on CUDA tensors, and their loops in Triton.
- `tensors`: the functions of `scan` on other torch tensors, and on CUDA tensors if Triton is not installed.
- `checks`: the argument checks they share.
"""
