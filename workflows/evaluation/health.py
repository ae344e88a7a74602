"""Code health, under the names that reports use."""

import numpy as np

from hashing.evaluation.health import CodeHealth, Health
from hashing.mapreduce import Data

from ..records import Bits
from .registry import HEALTH

TILES = 64  # of a picture of correlations, along each side


def code_health(codes: Data, n_bits: int) -> dict[str, float]:
    """Return the health statistics of packed codes, by the names of `registry.HEALTH`."""
    return in_words(codes.reduce(CodeHealth(n_bits), "code health"))


def in_words(found: Health) -> dict[str, float]:
    """Return health statistics by the names of `registry.HEALTH`."""
    return {
        HEALTH["health.balance"]: float(found.balance[np.abs(found.balance - 0.5).argmax()]),
        HEALTH["health.entropy"]: float(found.entropy.min()),
        HEALTH["health.correlation"]: found.correlation,
        HEALTH["health.constant_bits"]: float((found.entropy == 0).sum()),
    }


def bits_of(found: Health) -> Bits:
    """Return the activation of each bit, and the correlations of bits, reduced to TILES x TILES."""
    r = found.correlations
    step = -(-len(r) // TILES)
    starts = np.arange(0, len(r), step)
    highest, lowest = (
        reduce.reduceat(reduce.reduceat(r, starts, axis=0), starts, axis=1) for reduce in (np.maximum, np.minimum)
    )
    tiles = np.where(highest >= -lowest, highest, lowest)
    return Bits(balance=found.balance.tolist(), correlation=tiles.tolist())
