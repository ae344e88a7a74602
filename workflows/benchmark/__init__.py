"""Grids of datasets, methods, bits and seeds, measured beside published figures."""
