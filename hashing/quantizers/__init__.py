"""Families of hash functions whose rows have correctives beside the code, and the distances estimated from them."""
