"""Class centres: a code for each class, far from those of the other classes. Importing it needs no torch."""

from itertools import accumulate
from math import comb
from typing import Any

import numpy as np

from ..mapreduce import Array
from .losses import sgn

Tensor = Any  # torch.Tensor, without importing torch
LARGE = 1024  # classes; the search needs a quadratic matrix
FLIPS = 4000  # steps of the search, 0.1 s for 100 classes and 0.3 s for 1000


def class_centres(n_classes: int, n_bits: int, seed: int) -> Array:
    """Return centres (n_classes, n_bits) of -1 and +1, int8, which depend on the arguments only.

    The rows are different, and no bit is constant over two classes or more. With log2(n_bits) + 2 classes or more, no
    two bits are equal or complementary. The centres are

    - rows of Hadamard matrices, for a power of two n_bits and up to 2 n_bits classes: at a distance of n_bits / 2, or
      n_bits for complements
    - words of a random linear code, for more than LARGE classes or a quarter of all codes: the least distance is
      at least `gilbert_varshamov`
    - otherwise, and for fewer classes, the result of a search, which exceeds this bound in all tested cases

    Sources: Hadamard rows from CSQ, Yuan et al., CVPR 2020, section 3.1; the bound from MDS, Wang et al., CVPR 2023.

    Raises
    ------
    ValueError
        If there are more classes than codes.

    Examples
    --------
    >>> least_distance(class_centres(10, 64, seed=0))
    32
    """
    check_classes(n_classes, n_bits)
    rng = np.random.default_rng(seed)
    if n_bits & (n_bits - 1) == 0 and n_bits.bit_length() < n_classes <= 2 * n_bits:
        return _hadamard(n_classes, n_bits, rng)
    if n_classes > max(n_bits, min(LARGE, 2**n_bits // 4)):
        return _linear(n_classes, n_bits, rng)
    return _searched(n_classes, n_bits, rng)


def check_classes(n_classes: int, n_bits: int) -> None:
    """Raise ValueError if there are more classes than codes."""
    if n_classes > 2**n_bits:
        least = (n_classes - 1).bit_length()
        raise ValueError(f"expected n_bits of at least {least} for {n_classes:,} classes, found n_bits={n_bits}")


def head(n_classes: int, n_bits: int, seed: int) -> Any:
    """Return an nn.Module with buffers, which checkpoints save: `centres` (n_classes, n_bits) and `ties` (n_bits,)."""
    from torch import from_numpy, nn

    module = nn.Module()
    ties = _signs(np.random.default_rng([seed, n_classes]).random(n_bits) < 0.5)
    module.register_buffer("centres", from_numpy(class_centres(n_classes, n_bits, seed)).float())
    module.register_buffer("ties", from_numpy(ties).float())
    return module


def targets(head: Any, y: Tensor) -> Tensor:
    """Return the target code (n, n_bits) of each row of labels y (n, c): the sign of the sum of its classes' centres.

    Where the sum is 0, the bit is that of `ties`: one random code for all rows, as in CSQ.
    """
    return sgn(y @ head.centres + head.ties / 2)


def gilbert_varshamov(n_classes: int, n_bits: int) -> int:
    """Return the largest distance d at which n_classes codes are sure to exist: sum_{i<d} C(n_bits, i) < 2^n_bits / c.

    >>> gilbert_varshamov(100, 64), gilbert_varshamov(1, 8)
    (23, 8)
    """
    covered = accumulate(comb(n_bits, i) for i in range(n_bits))
    return sum(n_classes * codes < 2**n_bits for codes in covered)


def least_distance(centres: Array) -> int:
    """Return the least Hamming distance between two centres (c, n_bits); n_bits for a single one."""
    t, n_bits = centres.astype(np.float32), int(centres.shape[1])  # products are exact, by BLAS
    nearest = -n_bits
    for start in range(0, len(t), 1024):
        products = t[start : start + 1024] @ t[start:].T
        products[np.tril_indices(len(products), m=products.shape[1])] = -n_bits
        nearest = max(nearest, int(products.max()))
    return (n_bits - nearest) // 2


def distinct_bits(centres: Array) -> int:
    """Return the number of bits that vary between centres (c, n_bits), where equal and complementary ones count once.

    >>> distinct_bits(np.array([[1, 1, 1, -1], [1, -1, -1, 1]]))
    1
    """
    patterns = np.unique(np.packbits(centres * centres[0] > 0, axis=0), axis=1)  # the first row is all 1
    constant = np.packbits(np.ones((len(centres), 1), bool), axis=0)
    return int(patterns.shape[1] - (patterns == constant).all(axis=0).any())


def _hadamard(n_classes: int, n_bits: int, rng: np.random.Generator) -> Array:
    """Return random rows of [H; -H], both a row and its complement only if there are more classes than bits.

    The rows are drawn until all bits differ. The first rows of H would repeat bits: entry (i, j) is -1 to the number of
    ones that i and j share, so the first c rows depend on the last log2(c) binary digits of j only.
    """
    index = np.arange(n_bits)
    h = _signs(np.bitwise_count(index[:, None] & index) % 2 == 0)
    while True:
        rows = _signs(rng.random((n_bits, 1)) < 0.5) * rng.permutation(h)
        centres = np.concatenate([rows, -rows])[:n_classes]
        if distinct_bits(centres) == n_bits:
            return rng.permutation(centres)


def _searched(n_classes: int, n_bits: int, rng: np.random.Generator) -> Array:
    """Return the best centres of a search that flips a bit of a centre of a closest pair, again and again.

    It flips the bit that lowers sum_j exp(<t_i, t_j> / 2) most, and a random one in every tenth step on average. A flip
    is skipped if it would make a bit constant or, if there are enough patterns, equal or complementary to another.
    Bits are compared by digests: the XOR of the keys of the classes where the bit is 1, or of the other classes. All
    sums are of integers below 2^53, and thus the same in any order and on any machine.
    """
    if n_classes == 1:
        return _signs(rng.random((1, n_bits)) < 0.5)
    keys = rng.integers(1, 2**63, n_classes)
    every = np.bitwise_xor.reduce(keys)
    distinct = n_bits < 2 ** (n_classes - 1)
    columns: list[Array] = []
    digests = np.zeros(n_bits, np.int64)  # of a bit and its complement, the smaller one
    while (found := len(columns)) < n_bits:
        column = rng.random(n_classes) < 0.5
        digest = np.bitwise_xor.reduce(keys[column])
        digests[found] = min(digest, digest ^ every)
        if digests[found] and not (distinct and digests[found] in digests[:found]):
            columns.append(column)
    t = _signs(np.stack(columns, axis=1)).astype(float)
    products = t @ t.T
    np.fill_diagonal(products, -np.inf)
    closest = products.max(axis=1)
    best, least = t.copy(), closest.max()
    for _ in range(FLIPS):
        near = np.flatnonzero(closest == closest.max())
        i = near[rng.integers(len(near))]
        weights = np.rint(2**30 * np.exp((products[i] - closest[i]) / 2))
        k = (t[i] * (weights @ t)).argmax() if rng.random() < 0.9 else rng.integers(n_bits)
        digest = digests[k] ^ keys[i]
        digest = min(digest, digest ^ every)
        if digest == 0 or (distinct and digest in digests):
            continue
        t[i, k] *= -1
        digests[k] = digest
        before = products[i].copy()
        products[i] += 2 * t[i, k] * t[:, k]
        products[:, i] = products[i]
        lost = np.flatnonzero((before == closest) & (products[i] < before))
        closest = np.maximum(closest, products[i])
        closest[i] = products[i].max()
        closest[lost] = products[lost].max(axis=1)
        if closest.max() < least:
            best, least = t.copy(), closest.max()
    return best.astype(np.int8)


def _linear(n_classes: int, n_bits: int, rng: np.random.Generator) -> Array:
    """Return words of a random linear code, all shifted by one random word.

    The code has fewer than 2 n_classes words. Each bit of a linear code is a linear function of the message. If these
    functions are different and not 0, two bits differ in exactly half of the words, so they neither agree nor
    disagree in all of more than half. The first generators make them different, and each further one is a random word
    at a distance of at least d from all words so far; by the definition of d, such words exist.
    """
    distance = max(1, gilbert_varshamov(n_classes, n_bits))
    size = n_bits.bit_length()
    while True:
        functions = 1 + rng.permutation(2**size - 1)[:n_bits]
        words = np.bitwise_count(np.arange(2**size)[:, None] & functions) % 2 == 1
        if words[1:].sum(axis=1).min() >= distance:
            break
    while len(words) < n_classes:
        word = rng.random(n_bits) < 0.5
        if (words ^ word).sum(axis=1).min() >= distance:
            words = np.concatenate([words, words ^ word])
    chosen = words[rng.permutation(len(words))[:n_classes]]
    return _signs(chosen ^ (rng.random(n_bits) < 0.5))


def _signs(bits: Array) -> Array:
    return np.where(bits, 1, -1).astype(np.int8)
