"""Measure versions: queries, ground truth, counts, metrics, comparison, code health."""
