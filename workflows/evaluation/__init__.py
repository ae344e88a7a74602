"""Evaluation of table versions: queries, ground truth, histograms, metrics, comparison, code health."""
