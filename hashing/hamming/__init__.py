"""Hamming distances between packed codes: checks of arguments, CPU kernels, tensor kernels."""
