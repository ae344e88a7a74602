"""Quantizers: hash functions whose rows carry correctives beside their bits, from which distances are estimated."""
