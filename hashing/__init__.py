"""The mathematics of learning to hash. It imports neither Ray nor Prefect, Arrow or fsspec.

The modules here are what all methods share: bits, map-reduce, one BLAS thread, statistics, solvers, families of hash
functions, bounds on their rounding, torch devices, anchors, perceptrons.
"""
