"""Evaluation of versions and of external codes: queries, ground truth, cached counts, metrics, comparison."""
