"""The mathematics of learning to hash. It imports neither Ray nor Prefect, Arrow or fsspec."""
