"""Quantizers: hash functions that store correctives with the bits of each row, to estimate distances."""
