"""Bytes at rest: the paths of the warehouse, models, encoders, query sets, search results, and unreferenced files."""
