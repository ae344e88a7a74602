"""Signs and packed bits: the only module that defines the value and the position of a bit.

Bit j of a row is 1 where its value is >= 0, so sgn(0) = +1. It is stored in byte j // 8 at position j % 8 (least
significant bit first), as in Faiss. The unused bits of the last byte are zero.
"""

import numpy as np

from .mapreduce import Array


def sgn(u: Array) -> Array:
    """Return -1 or +1 for each value of u, in the shape and dtype of u; sgn(0) = +1.

    >>> sgn(np.array([-0.5, 0.0, 2.0]))
    array([-1.,  1.,  1.])
    """
    one = u.dtype.type(1)
    signs: Array = np.where(u >= 0, one, -one)
    return signs


def n_bytes(n_bits: int) -> int:
    """Return B, the number of bytes of a packed code.

    >>> n_bytes(12)
    2
    """
    return -(-n_bits // 8)


def pack(bits: Array) -> Array:
    """Pack bits (n, n_bits) bool into codes (n, B) uint8.

    Raises
    ------
    ValueError
        If bits does not have two dimensions.

    Examples
    --------
    >>> pack(np.array([[True, False, True], [False, False, True]]))
    array([[5],
           [4]], dtype=uint8)
    """
    if bits.ndim != 2:
        raise ValueError(f"expected bits of shape (n, n_bits), found {bits.shape}")
    return np.packbits(bits, axis=1, bitorder="little")


def pack_signs(u: Array, moments: Array) -> Array:
    """Return the codes (n, B) uint8 of projections u (n, n_bits) float32, and add their moments to (4, n_bits) float64.

    The rows of the moments are n, the number of ones (u >= 0), the sum and the sum of squares.

    >>> moments = np.zeros((4, 3))
    >>> pack_signs(np.array([[-0.5, 0.0, 2.0], [1.0, 1.0, 1.0]], np.float32), moments)
    array([[6],
           [7]], dtype=uint8)
    >>> moments
    array([[2.  , 2.  , 2.  ],
           [1.  , 2.  , 2.  ],
           [0.5 , 1.  , 3.  ],
           [1.25, 1.  , 5.  ]])
    """
    from .bit_kernels import pack_signs

    n, n_bits = u.shape
    codes = np.empty((n, n_bytes(n_bits)), np.uint8)
    pack_signs(np.ascontiguousarray(u, np.float32).reshape(-1), n_bits, codes.reshape(-1), moments)
    return codes


def unpack(codes: Array, n_bits: int) -> Array:
    """Unpack codes (n, B) uint8 into bits (n, n_bits) bool.

    Raises
    ------
    ValueError
        If codes are not uint8 of shape (n, n_bytes(n_bits)).

    Examples
    --------
    >>> unpack(np.array([[5], [4]], np.uint8), 3)
    array([[ True, False,  True],
           [False, False,  True]])
    """
    if codes.ndim != 2 or codes.shape[1] != n_bytes(n_bits) or codes.dtype != np.uint8:
        found = f"{codes.shape} {codes.dtype}"
        raise ValueError(f"expected codes (n, {n_bytes(n_bits)}) uint8 for {n_bits} bits, found {found}")
    return np.unpackbits(codes, axis=1, count=n_bits, bitorder="little").astype(bool)
