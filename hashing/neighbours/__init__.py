"""Nearest neighbours: exact ground truth, candidates by Hamming distance, re-ranking by vectors."""
