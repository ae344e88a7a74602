"""The digest of source rows, beside its definition in Python."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest

from storage.tables.source_digest import LaneDigest

CONTENT = np.random.default_rng(0).integers(0, 256, 3000, np.uint8)


def digest(*pieces):
    content = LaneDigest()
    for piece in pieces:
        content.update(piece)
    return content.digest()


def by_definition(*pieces):
    lanes, lengths = list(range(64)), b""
    for piece in pieces:
        padded = piece + bytes(512 - len(piece) % 512)
        for i in range(0, len(padded), 8):
            mixed = lanes[i // 8 % 64] ^ int.from_bytes(padded[i : i + 8], "little")
            rotated = (mixed << 29 | mixed >> 35) % 2**64
            lanes[i // 8 % 64] = rotated * 0x9E3779B185EBCA87 % 2**64
        lengths += len(piece).to_bytes(8, "little")
    return hashlib.sha256(lengths + b"".join(lane.to_bytes(8, "little") for lane in lanes)).digest()


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (511, 512), (513, 0, 1000), (8, 8)])
def test_the_digest_is_that_of_the_definition(sizes):
    pieces = [CONTENT[:size].tobytes() for size in sizes]
    assert digest(*pieces) == by_definition(*pieces)


@pytest.mark.parametrize("cuts", [(512, 1024), (1, 700), (0, 2999), (600, 601, 602, 2000)])
def test_a_piece_may_come_in_parts(cuts):
    content = LaneDigest()
    content.update(CONTENT[:5].data)
    for start, stop in pairwise((0, *cuts)):
        content.update(CONTENT[start:stop].data, more=True)
    content.update(CONTENT[cuts[-1] :].data)
    assert content.digest() == digest(CONTENT[:5].data, CONTENT.data)


def test_memory_that_is_not_aligned_is_read():
    assert digest(CONTENT[3:2003].data) == digest(CONTENT[3:2003].tobytes())


def test_every_bit_the_order_and_the_cut_count():
    rows = np.random.default_rng(0).standard_normal((8, 128), np.float32)
    swapped, negated = rows[[1, 0, *range(2, 8)]], rows.copy()
    negated[[2, 5], 77] *= -1  # the highest bits of two words of one lane
    flipped = [rows.copy() for _ in range(32)]
    for bit, changed in enumerate(flipped):
        changed.view(np.uint32)[3, 7] ^= np.uint32(1) << np.uint32(bit)
    found = {digest(x.data) for x in (rows, swapped, negated, *flipped)}
    found |= {digest(rows[:5].data, rows[5:].data), digest(rows[:4].data, rows[4:].data)}
    assert len(found) == 37
