"""Benchmarks over grids of datasets, methods, bits and seeds, and the published figures that they are compared with."""
