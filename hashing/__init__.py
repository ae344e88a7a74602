"""The mathematics of learning to hash. Knows no ray, no prefect, no arrow, no file."""
