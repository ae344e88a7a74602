"""Hamming retrieval: histograms over shards, and every metric as a closed form of them."""
