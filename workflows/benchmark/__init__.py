"""Benchmarks over grids of datasets, methods, bits and seeds, compared with published figures."""
