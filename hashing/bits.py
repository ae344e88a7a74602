"""Signs and bits: the one place that says what a bit is and where it lies.

Bit j of a row is 1 where its value is >= 0 (so sgn(0) = +1), and lies in byte j div 8 at position j mod 8, as in Faiss.
The padding of the last byte is zero.
"""

import numpy as np

from .mapreduce import Array


def sgn(u: Array) -> Array:
    """-1 or +1, of the shape and dtype of u; sgn(0) = +1."""
    one = u.dtype.type(1)
    return np.where(u >= 0, one, -one)


def n_bytes(n_bits: int) -> int:
    """B, the bytes of a packed code."""
    return -(-n_bits // 8)


def pack(bits: Array) -> Array:
    """(n, n_bits) bool -> (n, B) uint8."""
    if bits.ndim != 2:
        raise ValueError(f"expected bits of shape (n, n_bits), found {bits.shape}")
    return np.packbits(bits, axis=1, bitorder="little")


def unpack(codes: Array, n_bits: int) -> Array:
    """(n, B) uint8 -> (n, n_bits) bool."""
    if codes.ndim != 2 or codes.shape[1] != n_bytes(n_bits):
        raise ValueError(f"expected codes of shape (n, {n_bytes(n_bits)}) for {n_bits} bits, found {codes.shape}")
    return np.unpackbits(codes, axis=1, count=n_bits, bitorder="little").astype(bool)
